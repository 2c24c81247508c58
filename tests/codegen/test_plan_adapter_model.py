"""What an adapter model takes and hands on. What must not happen comes first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapter_codegen.model import AdapterModelPlan, Argument, Making, ModelPlan, Parameter, PartPlan, Shift, StaticHead
from adapter_codegen.parse import parse_module
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan import plan_adapter_model
from adapter_codegen.plan.heads.annotations import read_annotation
from adapter_codegen.plan.heads.shifting import plan_shift
from handmade import Handmade

MODULE = """
import torch
from typing import Optional, Union
from torch import Tensor, nn

from ...cache_utils import Cache

class MinePreTrainedModel(nn.Module):
    base_model_prefix = "mine"

class MineOutput: pass
class Block(nn.Module): pass
"""
NAME = "transformers.models.mine.modeling_mine"
TEXT = ("input_ids", "attention_mask", "position_ids")


@pytest.fixture(scope="module")
def facts() -> ModuleFacts:
    return parse_module(MODULE, "models/mine/modeling_mine.py")


@pytest.fixture
def plan() -> ModelPlan:
    return Handmade(MODULE).plan()


def optional(name: str, annotation: str = "torch.Tensor | None") -> Parameter:
    return Parameter(name, annotation, "None", "positional")


def planned(plan: ModelPlan, facts: ModuleFacts, *heads: str, **base: object) -> AdapterModelPlan:
    base = {"parameters": tuple(map(optional, TEXT)), **base}
    changed = replace(plan, flexible_heads=heads, base=replace(plan.base, **base))  # type: ignore[arg-type]
    return plan_adapter_model(changed, facts, "MineAdapterModel")


def names(arguments: tuple[Argument, ...]) -> list[str]:
    return [argument.name for argument in arguments]


# Without heads.


def test_without_heads_nothing_is_said_about_heads(plan: ModelPlan, facts: ModuleFacts) -> None:
    model = planned(plan, facts)
    assert names(model.all_arguments) == list(TEXT)
    assert (model.head_types, model.pooling, model.generates, model.read_by_heads, model.stacked) == (
        (),
        "",
        False,
        (),
        (),
    )


@pytest.mark.parametrize(
    "facts_about_heads",
    [{"pooling": "first"}, {"generates": True}, {"stacked": ("input_ids",)}, {"read_by_heads": ("input_ids",)}],
)
def test_a_plan_without_heads_cannot_say_something_about_them(facts_about_heads: dict[str, object]) -> None:
    arguments = (Argument("input_ids", "Any", "None"),)
    with pytest.raises(ValueError, match="no heads"):
        AdapterModelPlan("A", "model", False, arguments, (), **facts_about_heads)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((Argument("x", "Any", "None"), Argument("x", "Any", "None")), id="an argument twice"),
        pytest.param((Argument("x", "Any", "None"), Argument("y", "Any", "")), id="required behind optional"),
    ],
)
def test_arguments_that_are_no_signature_are_refused(arguments: tuple[Argument, ...]) -> None:
    with pytest.raises(ValueError, match="argument"):
        AdapterModelPlan("A", "model", False, arguments, ())


def test_an_attribute_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="holds its base model"):
        AdapterModelPlan("A", "", False, (), ())


# Arguments.


@pytest.mark.parametrize("prefix", ["", "model.tower"])
def test_a_model_that_names_no_attribute_gets_one_and_says_so(
    plan: ModelPlan, facts: ModuleFacts, prefix: str
) -> None:
    model = planned(plan, facts, prefix=prefix)
    assert (model.base_attribute, model.states_attribute) == ("model", True)
    assert not planned(plan, facts, prefix="mine", pretrained_class="MinePreTrainedModel").states_attribute


@pytest.mark.parametrize(("path", "attribute"), [("language_model", "whole"), ("text_model", "model")])
def test_a_name_that_upstream_would_take_for_an_old_layout_is_none(
    plan: ModelPlan, facts: ModuleFacts, path: str, attribute: str
) -> None:
    part = PartPlan(path, Making.AUTO, plan.base.location)
    assert planned(plan, facts, prefix="", models=(part,)).base_attribute == attribute
    assert planned(plan, facts, prefix="mine", models=(part,)).base_attribute == "mine"


@pytest.mark.parametrize(
    ("prefix", "pretrained_class"), [("tower", "MinePreTrainedModel"), ("mine", "ElsewherePreTrainedModel")]
)
def test_an_attribute_that_the_shared_class_does_not_name_is_stated(
    plan: ModelPlan, facts: ModuleFacts, prefix: str, pretrained_class: str
) -> None:
    """A tower of several names its own, and a class of another file is not read."""
    model = planned(plan, facts, prefix=prefix, pretrained_class=pretrained_class)
    assert (model.base_attribute, model.states_attribute) == (prefix, True)


def test_an_argument_of_base_model_and_heads_is_the_heads(plan: ModelPlan, facts: ModuleFacts) -> None:
    parameters = (*map(optional, TEXT), Parameter("logits_to_keep", "int", "0", "positional"))
    model = planned(plan, facts, "causal_lm", parameters=parameters)
    assert names(model.arguments) == list(TEXT)
    assert names(model.all_arguments).count("logits_to_keep") == 1
    assert "logits_to_keep" in names(planned(plan, facts, parameters=parameters).arguments)


ASKED = ("output_attentions", "output_hidden_states", "return_dict")


@pytest.mark.parametrize(
    ("decorator", "handed_on"),
    [
        pytest.param("@capture_outputs", False, id="captured"),
        pytest.param("@merge\n    @capture_outputs(tie_last_hidden_states=False)", False, id="captured with options"),
        pytest.param("@can_return_tuple", True, id="wrapped otherwise"),
        pytest.param("", True, id="read by the forward"),
    ],
)
@pytest.mark.parametrize("heads", [("classification",), ()], ids=["heads", "no heads"])
def test_none_is_not_handed_on_as_what_a_wrapper_is_asked(
    plan: ModelPlan, decorator: str, handed_on: bool, heads: tuple[str, ...]
) -> None:
    """The wrapper looks into the configuration where nothing is given, and takes None for no."""
    mine = f"""
class {plan.base.class_name}(MinePreTrainedModel):
    _can_record_outputs = {{"hidden_states": Block, "attentions": OutputRecorder(Block, index=1)}}

    {decorator}
    def forward(self, input_ids): ...
"""
    facts = parse_module(MODULE + mine, "models/mine/modeling_mine.py")
    parameters = tuple(map(optional, ("input_ids", *ASKED, "output_attention_mask")))
    given = names(planned(plan, facts, *heads, parameters=parameters).arguments)
    assert given == ["input_ids", *(ASKED if handed_on else ()), "output_attention_mask"]


def test_what_upstream_requires_is_required(plan: ModelPlan, facts: ModuleFacts) -> None:
    pixels = Parameter("pixel_values", "torch.Tensor", "", "positional")
    first, second = planned(plan, facts, parameters=(pixels, optional("mask"))).arguments
    assert (first.annotation, first.default) == ("torch.Tensor", "")
    assert (second.annotation, second.default) == ("torch.Tensor | None", "None")


def test_behind_an_optional_argument_all_are_optional(plan: ModelPlan, facts: ModuleFacts) -> None:
    keyword = Parameter("scale", "float", "", "keyword")
    _, second = planned(plan, facts, parameters=(optional("mask"), keyword)).arguments
    assert (second.annotation, second.default) == ("float | None", "None")


@pytest.mark.parametrize(
    ("heads", "encoder_decoder", "pooling"),
    [
        (("masked_lm", "causal_lm"), False, "first"),
        (("causal_lm",), False, "last"),
        (("classification",), False, "first"),
        (("causal_lm",), True, "eos"),
    ],
)
def test_which_token_stands_for_a_sequence(
    plan: ModelPlan, facts: ModuleFacts, heads: tuple[str, ...], encoder_decoder: bool, pooling: str
) -> None:
    assert planned(plan, facts, *heads, is_encoder_decoder=encoder_decoder).pooling == pooling


@pytest.mark.parametrize(
    ("head", "arguments"),
    [
        ("classification", ["head", "labels"]),
        ("question_answering", ["head", "start_positions", "end_positions"]),
        ("dependency_parsing", ["head", "labels", "word_starts"]),
        ("causal_lm", ["head", "labels", "logits_to_keep"]),
        ("seq2seq_lm", ["head", "labels", "logits_to_keep"]),
        ("masked_lm", ["head", "labels"]),
    ],
)
def test_heads_bring_the_arguments_that_they_read(
    plan: ModelPlan, facts: ModuleFacts, head: str, arguments: list[str]
) -> None:
    model = planned(plan, facts, head)
    assert names(model.all_arguments) == [*TEXT, *arguments]
    assert model.read_by_heads == ("input_ids", "attention_mask")
    assert model.generates == (head in ("causal_lm", "seq2seq_lm"))


def test_multiple_choice_stacks_what_has_a_row_per_answer(plan: ModelPlan, facts: ModuleFacts) -> None:
    parameters = (*map(optional, TEXT), optional("pixel_values"))
    assert planned(plan, facts, "multiple_choice", parameters=parameters).stacked == TEXT
    assert planned(plan, facts, "classification", parameters=parameters).stacked == ()


# Annotations.


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("", id="no annotation"),
        pytest.param("Missing | None", id="a name that the file does not bind"),
        pytest.param("dict[str, Missing]", id="... as a parameter"),
        pytest.param("for", id="no expression"),
    ],
)
def test_a_type_that_is_not_known_is_any(facts: ModuleFacts, code: str) -> None:
    annotation = read_annotation(code, facts, NAME)
    assert (annotation.text, annotation.imports) == ("Any", frozenset())
    assert annotation.optional().text == "Any"


@pytest.mark.parametrize(
    ("code", "text", "imports"),
    [
        pytest.param("torch.Tensor | None", "torch.Tensor | None", {"import torch"}, id="torch"),
        pytest.param("Tensor", "Tensor", {"from torch import Tensor"}, id="a name of torch"),
        pytest.param("Cache", "Cache", {f"from {NAME} import Cache"}, id="what upstream's file imports"),
        pytest.param("MineOutput", "MineOutput", {f"from {NAME} import MineOutput"}, id="what it defines"),
        pytest.param("Optional['Cache']", "Optional[Cache]", {f"from {NAME} import Cache", "from typing import Optional"}, id="in quotes"),
        pytest.param("'Cache | None'", "Cache | None", {f"from {NAME} import Cache"}, id="all in quotes"),
        pytest.param("list[dict] | tuple", "list[dict[Any, Any]] | tuple[Any, ...]", set(), id="containers of anything"),
        pytest.param("bool", "bool", set(), id="a builtin"),
    ],
)  # fmt: skip
def test_a_type_is_written_with_what_must_be_imported(
    facts: ModuleFacts, code: str, text: str, imports: set[str]
) -> None:
    assert read_annotation(code, facts, NAME).text == text
    assert read_annotation(code, facts, NAME).imports == imports


def test_a_default_of_none_is_in_the_type(facts: ModuleFacts) -> None:
    assert read_annotation("torch.Tensor", facts, NAME).optional().text == "torch.Tensor | None"
    assert read_annotation("torch.Tensor | None", facts, NAME).optional().text == "torch.Tensor | None"
    assert read_annotation("Optional[Cache]", facts, NAME).optional().text == "Optional[Cache]"


# What a decoder reads

SHIFTING = """
from torch import nn
from ...modeling_utils import PreTrainedModel

def shift_right(tokens, pad, start): ...

class MinePreTrainedModel(PreTrainedModel):
    def _shift(self, tokens): ...

class Head(MinePreTrainedModel):
    def _own(self, tokens): ...
    def forward(self, input_ids=None, decoder_input_ids=None, labels=None):
        if labels is not None and decoder_input_ids is None:
            {statement}

class OtherHead(MinePreTrainedModel):
    def forward(self, labels=None):
        {other}
"""


def shift(plan: ModelPlan, statement: str, other: str = "pass", reads: bool = True) -> Shift | None:
    facts = parse_module(SHIFTING.format(statement=statement, other=other), "models/mine/modeling_mine.py")
    heads = tuple(StaticHead(name, "mine", "") for name in ("Head", "OtherHead"))
    parameters = (optional("decoder_input_ids"),) if reads else ()
    base = replace(plan.base, parameters=parameters, pretrained_class="MinePreTrainedModel")
    return plan_shift(replace(plan, static_heads=heads, base=base), facts)


METHOD = "decoder_input_ids = self._shift(labels)"


@pytest.mark.parametrize(
    ("statement", "other"),
    [
        pytest.param("decoder_input_ids = self._shift(input_ids)", "pass", id="the inputs, not the labels"),
        pytest.param("decoder_input_ids = self._own(labels)", "pass", id="a method that adapter models do not have"),
        pytest.param("decoder_input_ids = unknown(labels)", "pass", id="a function of another file"),
        pytest.param("decoder_input_ids = shift_right(labels, pad, 0)", "pass", id="a local variable"),
        pytest.param("other_input_ids = self._shift(labels)", "pass", id="for something else"),
        pytest.param(
            METHOD, "decoder_input_ids = shift_right(labels, self.config.pad, self.config.start)", id="two ways"
        ),
    ],
)
def test_labels_are_not_shifted_where_upstream_does_not_say_how(plan: ModelPlan, statement: str, other: str) -> None:
    assert shift(plan, statement, other) is None


def test_labels_are_not_shifted_where_the_base_model_takes_no_inputs_of_a_decoder(plan: ModelPlan) -> None:
    assert shift(plan, METHOD, reads=False) is None


@pytest.mark.parametrize(
    ("statement", "expression", "function"),
    [
        (METHOD, "self._shift(labels)", ""),
        (
            "decoder_input_ids = shift_right(\n                labels, self.config.pad, self.config.start\n            )",
            "shift_right( labels, self.config.pad, self.config.start )",
            "shift_right",
        ),
    ],
)
def test_labels_are_shifted_as_upstream_does(plan: ModelPlan, statement: str, expression: str, function: str) -> None:
    assert shift(plan, statement, METHOD if not function else "pass") == Shift(expression, function)


@pytest.mark.parametrize(
    ("expression", "is_inherited"),
    [
        pytest.param("self.prepare_decoder_input_ids_from_labels(labels)", True, id="the method itself, which would call itself"),
        pytest.param("self._shift_right(labels)", False, id="another method"),
        pytest.param("prepare_decoder_input_ids_from_labels(labels)", False, id="a function of that name"),
    ],
)  # fmt: skip
def test_a_method_that_upstreams_class_has_is_not_written_again(expression: str, is_inherited: bool) -> None:
    assert Shift(expression, "").is_inherited is is_inherited
