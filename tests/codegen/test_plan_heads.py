"""Upstream's heads as flexible heads, and which flexible heads a model can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapter_codegen.model import BasePlan, Location, Making, Parameter, PartPlan, StackPlan, StaticHead
from adapter_codegen.parse import AutoMappings, ModelEntry, ModuleFacts, parse_module
from adapter_codegen.parse.syntax import literal_string
from adapter_codegen.plan.heads.config_keys import states_width
from adapter_codegen.plan.heads.flexible import HEAD_TYPES, SHOWN, plan_flexible_heads, pooling, to_be_shown, why_not
from adapter_codegen.plan.heads.returned import gives_states
from adapter_codegen.plan.heads.static import plan_static_heads
from adapter_codegen.plan.model import _shown
from adapter_codegen.plan.stream.words import may_name_words
from adapter_codegen.upstream import Release, open_release

HEAD = """
import torch
from torch import nn
from ...activations import ACT2FN
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import SequenceClassifierOutput

class TinyPreTrainedModel(PreTrainedModel):
    base_model_prefix = "tiny"

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config, add_pooling_layer=True): ...
    def forward(self, input_ids): ...

class ShortModel(TinyPreTrainedModel):
    def forward(self, input_ids): ...

class Prediction(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.size, config.size)
        self.act = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(config.size)
        self.decoder = nn.Linear(config.size, config.vocab_size)
    def forward(self, x):
        return self.decoder(self.norm(self.act(self.dense(x))))

class Head(TinyPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.tiny = TinyModel(config)
        self.drop = nn.Dropout(0.1)
        self.dense = nn.Linear(config.size, config.size)
        self.out = nn.Linear(config.size, config.num_labels)
        self.plain = nn.Linear(config.size, config.num_labels, bias=False)
        self.by_field = nn.Linear(config.size, config.num_labels, bias=getattr(config, "labels_bias", True))
        self.by_itself = nn.Linear(config.size, config.num_labels, bias=getattr(self, "labels_bias", True))
        self.by_other = nn.Linear(config.size, config.num_labels, bias=getattr(config, "labels_bias", config.flag))
        self.norm = nn.LayerNorm(config.size)
        self.conv = nn.Conv1d(2, 2, 1)
        self.of_several = nn.Linear(config.sizes[-1], config.num_labels)
        self.to_embedding = nn.Linear(config.size, config.embedding_size)
        self.to_other = nn.Linear(config.size, config.output_size)
        self.pred = Prediction(config)
        self.norm2 = nn.LayerNorm(config.size, eps=config.norm_eps, bias=config.norm_bias)
        self.other_norm = nn.RMSNorm(config.size)
        self.act = nn.GELU()
        self.scale = 2.0
        self.factor = config.factor
        self.flag = config.flag
        self.shift = nn.Buffer(torch.zeros(2))
        self.learned = nn.Parameter(torch.zeros(2))
    def forward(self, input_ids, labels=None):
        outputs = self.tiny(input_ids)
        x = outputs[0]
        loss = None
        if labels is not None:
            loss = self.loss_function(x, labels)
        return SequenceClassifierOutput(loss=loss, logits={logits})
"""
CLASSIFICATION = ("classification", "multilabel_classification")
CONFIG = 'class TinyConfig(PreTrainedConfig):\n    hidden_act: str = "silu"\n    size: int = 2\n'


def base_plan(*parameters: str, encoder_decoder: bool = False, submodels: bool = False) -> BasePlan:
    return BasePlan(
        class_name="TinyModel",
        location=Location("", 1, 0, 1, 0),
        pretrained_class="TinyPreTrainedModel",
        prefix="tiny",
        stacks=(StackPlan("layers", ("Layer",)),),
        parameters=tuple(Parameter(name, "", "None", "positional") for name in parameters),
        models=(PartPlan("tower", Making.AUTO, Location("", 2, 0, 2, 0)),) if submodels else (),
        is_encoder_decoder=encoder_decoder,
    )


def entry(*tasks: str) -> ModelEntry:
    heads = dict.fromkeys(tasks, ("Head",))
    config = "models/tiny/configuration_tiny.py"
    return ModelEntry("tiny", "models/tiny/modeling_tiny.py", "TinyConfig", config, "TinyModel", heads)


@pytest.fixture
def tiny_release(tmp_path: Path) -> Release:
    for path, text in {"__init__.py": '__version__ = "1"', "models/auto/x": "", entry().config_path: CONFIG}.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return open_release(tmp_path)


def planned(release: Release, logits: str, task: str, **base: Any) -> StaticHead:
    facts = parse_module(HEAD.replace("{logits}", logits), entry().path)
    tiny = base_plan("input_ids", **base)
    (head,) = plan_static_heads(release, entry(task), facts, tiny, plan_flexible_heads(entry(task), tiny))
    return head


@pytest.mark.parametrize(
    ("logits", "task"),
    [
        pytest.param("self.conv(x)", "sequence_classification", id="a convolution"),
        pytest.param("self.out(x) * self.scale", "sequence_classification", id="logits that are scaled"),
        pytest.param(
            "torch.tanh(self.out(x))", "sequence_classification", id="an activation after the last projection"
        ),
        pytest.param("self.out(self.norm(x))", "sequence_classification", id="a norm before the projection"),
        pytest.param("self.out(self.dense(x))", "sequence_classification", id="two projections and nothing between"),
        pytest.param(
            "self.out(torch.tanh(self.plain(x)))", "sequence_classification", id="no bias in the first of two"
        ),
        pytest.param("self.out(x) + self.learned", "sequence_classification", id="something learned is added"),
        pytest.param("self.out(x) + self.shift", "sequence_classification", id="a buffer, which a classifier has not"),
        pytest.param(
            "self.out(x) * self.factor", "sequence_classification", id="logits of a classifier times a number"
        ),
        pytest.param(
            "self.out(self.other_norm(self.act(self.dense(x))))", "token_classification", id="a norm of another kind"
        ),
        pytest.param("self.plain(x) * labels", "causal_lm", id="logits times a tensor"),
        pytest.param("self.plain(x) * self.scale", "causal_lm", id="logits times what no config says"),
        pytest.param("self.plain(x) + self.scale", "causal_lm", id="a number is added"),
        pytest.param("torch.tanh(self.plain(x) / self.factor) * self.flag", "causal_lm", id="a limit of two numbers"),
        pytest.param(
            "torch.tanh(self.plain(x) / self.factor) * self.factor + self.shift",
            "causal_lm",
            id="a buffer on the limit",
        ),
        pytest.param("self.out(self.dense(x) * self.factor)", "causal_lm", id="a number between projections"),
        pytest.param("self.plain(x) if labels.sum() > 0 else self.out(x)", "causal_lm", id="a condition on a tensor"),
        pytest.param("self.out(x) + self.learned", "causal_lm", id="something learned on top of a bias"),
        pytest.param("self.out(x + outputs[1])", "sequence_classification", id="two outputs are added"),
        pytest.param("self.out(outputs[2])", "sequence_classification", id="an output that is no last hidden state"),
        pytest.param("self.out(x.mean(dim=1))", "sequence_classification", id="the mean of all positions"),
        pytest.param("self.out(self.drop(x[:, 1:].amax(1)))", "sequence_classification", id="the largest of some"),
        pytest.param("self.out(x[:, 1])", "sequence_classification", id="the second position"),
        pytest.param("self.out(x[:, -1])", "sequence_classification", id="the last position, padding or not"),
        pytest.param(
            "self.out(x[torch.arange(2), labels.argmax(-1)])",
            "sequence_classification",
            id="positions of another rule",
        ),
        pytest.param("self.out(x[:, :4])", "token_classification", id="some of the positions"),
        pytest.param("self.out(x[:, 0])", "token_classification", id="one position, for a head on all of them"),
        pytest.param("self.of_several(x)", "image_classification", id="one of several widths goes in"),
        pytest.param(
            "self.out(torch.tanh(self.to_other(x)))", "sequence_classification", id="a width between of its own"
        ),
        pytest.param("self.out(input_ids)", "sequence_classification", id="not the base model's output"),
        pytest.param("self.out(torch.fft.fft(x))", "sequence_classification", id="an unknown function"),
        pytest.param("x", "sequence_classification", id="no projection at all"),
        pytest.param(
            "self.out(self.drop(x)) if labels is None else self.plain(x)",
            "sequence_classification",
            id="another projection under a condition",
        ),
        pytest.param(
            "self.out(self.drop(x)) if labels is None else torch.tanh(self.out(self.drop(x)))",
            "sequence_classification",
            id="an activation under a condition",
        ),
        pytest.param(
            "self.plain(x)", "question_answering", id="no bias, where the flexible head has no option for it"
        ),
        pytest.param(
            "self.by_itself(x)", "token_classification", id="a bias by a field of the head, not of the config"
        ),
        pytest.param("self.by_other(x)", "token_classification", id="a bias by a default that is no literal"),
        pytest.param("self.out(outputs[1])", "token_classification", id="a pooled vector for a head on tokens"),
        pytest.param("self.out(x)", "masked_lm_of_another_kind", id="a task that no flexible head is for"),
    ],
)
def test_a_head_that_no_flexible_head_computes_is_not_converted(tiny_release: Release, logits: str, task: str) -> None:
    facts = parse_module(HEAD.replace("{logits}", logits), entry().path)
    base = base_plan("input_ids")
    heads = plan_static_heads(tiny_release, entry(task), facts, base, plan_flexible_heads(entry(task), base))
    assert [head.head_type for head in heads] in ([""], [])
    assert all(head.reason for head in heads)


def test_logits_that_a_loss_reshapes_in_one_branch_are_followed(tiny_release: Release) -> None:
    text = HEAD.replace("logits={logits}", "logits=scores").replace(
        "        loss = None\n",
        "        loss = None\n        scores = self.out(self.drop(x))\n        if labels is not None:\n"
        "            scores = scores.view(-1).to(labels.dtype)\n",
    )
    facts = parse_module(text, entry().path)
    (head,) = plan_static_heads(
        tiny_release, entry("sequence_classification"), facts, base_plan("input_ids"), CLASSIFICATION
    )
    assert (head.head_type, head.layers) == ("classification", (None, "out"))


LAST = "[torch.arange(2), (input_ids != self.config.pad_token_id).int().argmax(-1)]"
END = "[torch.arange(2), (input_ids == self.config.eos_token_id).int().argmax(-1)]"


@pytest.mark.parametrize(
    ("logits", "encoder_decoder", "reads"),
    [
        pytest.param("self.out(x[:, 0, :])", False, "first", id="the first of an encoder"),
        pytest.param("self.out(x[:, 0])", True, None, id="the first, where an encoder-decoder has the end pooled"),
        pytest.param(f"self.out(x){LAST}", False, "last", id="the last that is no padding"),
        pytest.param(f"self.out(x){LAST}", True, None, id="the last, where an encoder-decoder has the end pooled"),
        pytest.param(f"self.out(x{END})", True, "eos", id="the end of the sequence"),
        pytest.param(f"self.out(x{END})", False, None, id="the end, which no encoder has pooled"),
        pytest.param("self.out(outputs[1])", False, "", id="a pooler reads for the head"),
        pytest.param("self.out(x[:, :])", False, "", id="all positions"),
    ],
)
def test_a_head_converts_where_it_reads_the_token_that_stands_for_a_sequence(
    tiny_release: Release, logits: str, encoder_decoder: bool, reads: str | None
) -> None:
    head = planned(tiny_release, logits, "sequence_classification", encoder_decoder=encoder_decoder)
    assert (head.head_type, head.reads) == (("", "") if reads is None else ("classification", reads))


@pytest.mark.parametrize(
    ("heads", "read", "expected"),
    [
        pytest.param(("classification",), {"last"}, "last", id="as all of upstream's classes do"),
        pytest.param(("classification", "causal_lm"), {"first"}, "first", id="also of a decoder"),
        pytest.param(
            ("classification", "causal_lm"), {"first", "last"}, "last", id="a decoder whose classes disagree"
        ),
        pytest.param(
            ("classification", "masked_lm"), {"first", "last"}, "first", id="an encoder whose classes disagree"
        ),
        pytest.param(("classification", "causal_lm"), set(), "last", id="a decoder without such a class"),
        pytest.param((), {"last"}, "", id="no head at all"),
    ],
)
def test_which_token_stands_for_a_sequence(heads: tuple[str, ...], read: set[str], expected: str) -> None:
    assert pooling(base_plan("input_ids"), heads, read) == expected


@pytest.mark.parametrize(
    ("continues", "read", "expected"),
    [
        pytest.param(True, (), "last", id="a decoder of several books of codes, which has no head of words"),
        pytest.param(False, (), "first", id="an encoder without such a head"),
        pytest.param(True, ("first",), "first", id="as upstream's classes do, if they agree"),
    ],
)
def test_a_decoder_without_a_head_of_words_is_one_all_the_same(
    continues: bool, read: tuple[str, ...], expected: str
) -> None:
    base = replace(base_plan("input_ids"), continues=continues)
    assert pooling(base, ("classification", "tagging"), read) == expected


@pytest.mark.parametrize(
    ("held", "logits", "converts"),
    [
        pytest.param("TinyModel(config)", "self.out(outputs[1])", True, id="the pooler that a base model has"),
        pytest.param("TinyModel(config, add_pooling_layer=True)", "self.out(outputs[1])", True, id="the same, said"),
        pytest.param("TinyModel(config, add_pooling_layer=False)", "self.out(outputs[1])", False, id="another pooler"),
        pytest.param("TinyModel(config, False)", "self.out(outputs[1])", False, id="the same, not by keyword"),
        pytest.param("TinyModel(config, add_pooling_layer=False)", "self.out(x[:, 0])", True, id="a pooler not read"),
        pytest.param("ShortModel(config)", "self.out(x[:, 0])", False, id="another model by the base model's name"),
    ],
)
def test_a_head_converts_where_it_stands_on_the_base_model_as_it_mostly_is(
    tiny_release: Release, held: str, logits: str, converts: bool
) -> None:
    text = HEAD.replace("self.tiny = TinyModel(config)", f"self.tiny = {held}").replace("{logits}", logits)
    facts = parse_module(text, entry().path)
    (head,) = plan_static_heads(
        tiny_release, entry("sequence_classification"), facts, base_plan("input_ids"), CLASSIFICATION
    )
    assert bool(head.head_type) == converts


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        pytest.param("to_embedding", {}, id="the width of the embeddings, which heads know"),
        pytest.param("dense", {}, id="the width of the hidden states"),
        pytest.param("to_other", {"embedding_size_key": "output_size"}, id="another field of the config"),
    ],
)
def test_the_width_between_projections_of_a_language_model(
    tiny_release: Release, layer: str, options: dict[str, str]
) -> None:
    head = planned(tiny_release, f"self.out(torch.tanh(self.{layer}(x)))", "masked_lm")
    assert head.head_type == "masked_lm"
    assert {name: value for name, value in head.config if name.startswith("embedding")} == options


ONE = {"layers": 1, "activation_function": None}
DROPS = {"dropout_rates": [0.1]}
BEFORE_THE_LAST = {**DROPS, "first_dropout_rates": [0.0]}


@pytest.mark.parametrize(
    ("logits", "task", "head_type", "layers", "config"),
    [
        pytest.param(
            "self.out(self.drop(x))",
            "sequence_classification",
            "classification",
            (None, "out"),
            {**ONE, **DROPS},
            id="one layer",
        ),
        pytest.param(
            "self.out(x[:, 0])",
            "sequence_classification",
            "classification",
            (None, "out"),
            {**ONE, "dropout_prob": 0.0},
            id="without dropout",
        ),
        pytest.param(
            "self.plain(self.drop(x)).view(-1, 2)",
            "sequence_classification",
            "classification",
            (None, "plain"),
            {**ONE, **DROPS, "bias": False},
            id="without bias",
        ),
        pytest.param(
            "self.out(self.drop(outputs.pooler_output))",
            "sequence_classification",
            "classification",
            (None, "out"),
            {**ONE, **DROPS, "use_pooler": True},
            id="on the pooler",
        ),
        pytest.param(
            "self.out(self.drop(torch.tanh(self.dense(x))))",
            "sequence_classification",
            "classification",
            (None, "dense", None, None, "out"),
            {"layers": 2, "activation_function": "tanh", **BEFORE_THE_LAST},
            id="two layers",
        ),
        pytest.param(
            "self.out(self.drop(nn.ReLU()(self.dense(x))))",
            "sequence_classification",
            "classification",
            (None, "dense", None, None, "out"),
            {"layers": 2, "activation_function": "relu", **BEFORE_THE_LAST},
            id="an activation that is built in place",
        ),
        pytest.param(
            "self.out(self.norm2(self.act(self.dense(x))))",
            "token_classification",
            "tagging",
            (None, "dense", None, "norm2", None, "out"),
            {
                "layers": 2,
                "activation_function": "gelu",
                "layer_norm": True,
                "dropout_prob": 0.0,
                "norm_bias_key": "norm_bias",
                "norm_bias": True,
                "norm_eps_key": "norm_eps",
            },
            id="two layers with a norm, whose options the config names",
        ),
        pytest.param(
            "self.out(self.drop(x))",
            "token_classification",
            "tagging",
            (None, "out"),
            {**ONE, **DROPS},
            id="of tokens",
        ),
        pytest.param(
            "self.plain(self.drop(x))",
            "token_classification",
            "tagging",
            (None, "plain"),
            {**ONE, **DROPS, "bias": False},
            id="of tokens, without bias",
        ),
        pytest.param(
            "self.by_field(self.drop(x))",
            "token_classification",
            "tagging",
            (None, "by_field"),
            {**ONE, **DROPS, "bias": True, "bias_key": "labels_bias"},
            id="of tokens, with a bias unless a field that a config may lack says otherwise",
        ),
        pytest.param(
            "self.pred(x)",
            "masked_lm",
            "masked_lm",
            ("pred.dense", None, "pred.norm", "pred.decoder"),
            {
                "layers": 2,
                "activation_function": "silu",
                "activation_key": "hidden_act",
                "layer_norm": True,
                "bias": True,
                "norm_eps": 1e-5,
            },
            id="to words, with the activation that the config names",
        ),
        pytest.param(
            "self.plain(x)",
            "causal_lm",
            "causal_lm",
            ("plain",),
            {**ONE, "layer_norm": False, "bias": False, "shift_labels": True},
            id="to the next word",
        ),
    ],
)
def test_a_head_converts_where_its_modules_stand_in_the_same_order(
    tiny_release: Release,
    logits: str,
    task: str,
    head_type: str,
    layers: tuple[str | None, ...],
    config: dict[str, object],
) -> None:
    head = planned(tiny_release, logits, task)
    assert (head.class_name, head.base_attribute) == ("Head", "tiny")
    assert (head.head_type, head.layers, dict(head.config)) == (head_type, layers, config)


TO_WORDS = {**ONE, "layer_norm": False, "bias": False, "shift_labels": True}


@pytest.mark.parametrize(
    ("logits", "options", "tensors"),
    [
        pytest.param(
            "self.plain(x) / self.config.scaling",
            {"logit_factors": {"terms": [["scaling", -1.0]]}},
            (),
            id="over a number",
        ),
        pytest.param(
            "self.factor * self.plain(x)",
            {"logit_factors": {"terms": [["factor", 1.0]]}},
            (),
            id="an attribute of a field",
        ),
        pytest.param(
            "self.plain(x / (self.config.size / 2.0) ** 0.5)",
            {"input_factors": {"terms": [["size", -0.5], [2.0, 0.5]]}},
            (),
            id="a power of several, before",
        ),
        pytest.param(
            "self.plain(x * self.factor if self.config.flag else x)",
            {"input_factors": {"terms": [["factor", 1.0]], "flag": "flag"}},
            (),
            id="under a flag",
        ),
        pytest.param(
            "torch.tanh(self.plain(x).float() / self.config.text.cap).to(x.dtype) * self.config.text.cap",
            {"softcap_key": "text.cap"},
            (),
            id="a limit, in another type, of a config in the config",
        ),
        pytest.param(
            "self.plain(x) + self.shift.to(x.device)",
            {"logits_bias": True},
            (("shift", "logits_bias"),),
            id="a buffer is added",
        ),
        pytest.param(
            "self.plain(x) + self.learned", {"bias": True}, (("learned", "0.bias"),), id="a bias that stands elsewhere"
        ),
        pytest.param(
            "self.plain(x) if self.flag else self.out(x)", {"requires": {"flag": True}}, (), id="one of two, by a flag"
        ),
        pytest.param(
            "self.plain(x if self.config.kind == 'cls' else x + 1)",
            {"requires": {"kind": "cls"}},
            (),
            id="by the value of a field",
        ),
        pytest.param(
            "self.plain(x.view(-1)[mask] if self.flag and labels is not None else x)",
            {},
            (),
            id="fewer positions with labels",
        ),
    ],
)
def test_what_a_head_does_beside_its_layers_becomes_options(
    tiny_release: Release, logits: str, options: dict[str, object], tensors: tuple[tuple[str, str], ...]
) -> None:
    head = planned(tiny_release, logits, "causal_lm")
    assert (dict(head.config), head.tensors) == ({**TO_WORDS, **options}, tensors)


def test_a_head_that_cannot_stand_on_the_base_model_is_not_converted(tiny_release: Release) -> None:
    assert planned(tiny_release, "self.out(x)", "token_classification", encoder_decoder=True).head_type == ""


@pytest.mark.parametrize(
    ("tasks", "base", "expected"),
    [
        pytest.param((), base_plan("input_ids"), (), id="no task is known"),
        pytest.param(("pretraining", "text_encoding"), base_plan("input_ids"), (), id="tasks without a flexible head"),
        pytest.param(("causal_lm",), base_plan("input_ids", submodels=True), (), id="a composite"),
        pytest.param(("causal_lm",), base_plan("input_values"), ("causal_lm",), id="a decoder that reads no text"),
        pytest.param(("image_classification",), base_plan("pixel_values"), ("image_classification",), id="images"),
        pytest.param(
            ("speech_seq_2_seq",),
            base_plan("input_ids"),
            ("causal_lm",),
            id="speech to text of a decoder alone, which shifts labels",
        ),
        pytest.param(
            ("speech_seq_2_seq",), base_plan("input_features", encoder_decoder=True), ("seq2seq_lm",), id="speech"
        ),
        pytest.param(
            ("sequence_classification",), base_plan("input_ids"), CLASSIFICATION, id="classes bring labels with them"
        ),
        pytest.param(
            ("masked_lm",),
            base_plan("input_ids"),
            (
                *CLASSIFICATION,
                "tagging",
                "question_answering",
                "multiple_choice",
                "dependency_parsing",
                "masked_lm",
            ),
            id="a text encoder",
        ),
        pytest.param(
            ("causal_lm",),
            base_plan("input_ids"),
            (*CLASSIFICATION, "tagging", "question_answering", "causal_lm"),
            id="a text decoder",
        ),
        pytest.param(
            ("seq_to_seq_causal_lm", "token_classification", "causal_lm"),
            base_plan("input_ids", encoder_decoder=True),
            (*CLASSIFICATION, "tagging", "question_answering", "seq2seq_lm"),
            id="text to text",
        ),
        pytest.param(
            ("image_text_to_text", "token_classification"),
            base_plan("input_ids"),
            ("tagging", "causal_lm"),
            id="a decoder that upstream has for images alone (Mistral 4)",
        ),
        pytest.param(
            ("image_text_to_text",),
            base_plan("input_ids", encoder_decoder=True),
            ("seq2seq_lm",),
            id="an encoder of images and a decoder in one (UDOP)",
        ),
    ],
)
def test_which_flexible_heads_make_sense(tasks: tuple[str, ...], base: BasePlan, expected: tuple[str, ...]) -> None:
    assert plan_flexible_heads(entry(*tasks), base) == expected


@pytest.mark.parametrize(
    ("tasks", "encoder_decoder", "shown"),
    [
        pytest.param(("causal_lm", "image_text_to_text"), False, set(), id="a class for text shows it anyway"),
        pytest.param(("image_text_to_text", "masked_lm"), False, {"causal_lm"}, id="a class for images alone"),
        pytest.param(("token_classification",), False, set(), id="no encoder by itself"),
        pytest.param(("token_classification",), True, {"tagging", "audio_classification"}, id="on an encoder"),
    ],
)
def test_which_heads_a_class_must_show(tasks: tuple[str, ...], encoder_decoder: bool, shown: set[str]) -> None:
    found = to_be_shown(entry(*tasks), base_plan("input_ids", encoder_decoder=encoder_decoder))
    assert found == SHOWN | shown


def test_a_head_needs_a_width() -> None:
    """Of images that go through stages of several widths, a config lists these (PVT)."""
    base = base_plan("pixel_values")
    assert plan_flexible_heads(entry("image_classification"), base, states_width=False) == ()


RETURNED = """
class TinyOutput(ModelOutput):
    pass

class TinyModel(PreTrainedModel):
    def forward(self, x):
        return {}
"""


@pytest.mark.parametrize(
    ("returned", "gives"),
    [
        pytest.param("TinyOutput(language_output=x, vision_output=x)", False, id="states of two streams (LXMERT)"),
        pytest.param("TinyOutput(last_hidden_state=x, vision_output=x)", True, id="among others"),
        pytest.param("TinyOutput(x, vision_output=x)", True, id="by place: the first may be"),
        pytest.param("TinyOutput(**x)", True, id="what is not told"),
        pytest.param("BaseModelOutput(hidden_states=x)", True, id="a class of another file"),
        pytest.param("x", True, id="no call"),
    ],
)
def test_heads_need_last_hidden_states(returned: str, gives: bool) -> None:
    facts = parse_module(RETURNED.format(returned), entry().path)
    assert gives_states(facts, "TinyModel") is gives
    base = replace(base_plan("input_ids"), gives_states=gives)
    heads = plan_flexible_heads(entry("sequence_classification"), base)
    assert heads == (CLASSIFICATION if gives else ())
    assert gives or "no last hidden states" in why_not(entry("sequence_classification"), base)


@pytest.mark.parametrize(
    ("logits", "task", "precluded"),
    [
        pytest.param("x", "causal_lm", HEAD_TYPES, id="the model gives logits itself (FSMT)"),
        pytest.param("self.conv(x)", "causal_lm", (), id="what is behind it is not known"),
        pytest.param("self.out(x[:, :3])", "token_classification", ("tagging",), id="of some positions (LayoutLMv3)"),
        pytest.param("self.out(x[:, 3])", "sequence_classification", (), id="one position of its own"),
        pytest.param("self.out(x)", "token_classification", (), id="of all"),
    ],
)
def test_what_a_class_shows_not_to_stand_on_the_model(
    tiny_release: Release, logits: str, task: str, precluded: tuple[str, ...]
) -> None:
    head = planned(tiny_release, logits, task)
    assert head.precludes == precluded
    shown = _shown(("classification", "tagging", "causal_lm"), [head], SHOWN)
    assert not {*precluded} & {*shown}
    assert precluded or shown == ("classification", "tagging", "causal_lm")


def test_why_a_head_is_missing_is_told_of_the_width_or_of_the_words() -> None:
    tasks = entry("masked_lm")
    assert "how wide" in why_not(tasks, base_plan("inputs"), "masked_lm", states_width=False)
    assert "table of words" in why_not(tasks, base_plan("inputs"), "masked_lm")


@pytest.mark.parametrize(
    ("task", "head_type", "said"),
    [("causal_lm", "causal_lm", "a decoder alone"), ("masked_lm", "masked_lm", "an encoder and a decoder")],
)
def test_why_a_head_is_missing_behind_a_decoder(task: str, head_type: str, said: str) -> None:
    assert said in why_not(entry(task), base_plan("input_ids", encoder_decoder=True), head_type)


def test_a_head_of_words_needs_a_table_of_them() -> None:
    tasks = entry("masked_lm", "sequence_classification")
    assert plan_flexible_heads(tasks, base_plan("inputs"), has_words=False) == CLASSIFICATION


WORDS = """
from torch import nn
class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.words = nn.Embedding(9, 2)
        self.latents = nn.Parameter(torch.zeros(9, 2))
        self.books = nn.ModuleList([nn.Embedding(9, 2) for _ in range(4)])
class TinyModel(PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.own = nn.Parameter(torch.zeros(9, 2))
"""


@pytest.mark.parametrize(
    ("getter", "expected"),
    [
        pytest.param("", True, id="upstream's own getter"),
        pytest.param("return self.embeddings.words", True, id="a table"),
        pytest.param(
            "return getattr(self, self.base_model_prefix, self).embed_tokens", True, id="a way that is not followed"
        ),
        pytest.param(
            "if not self.embeddings:\n            raise ValueError\n        return self.embeddings.words",
            True,
            id="an error first",
        ),
        pytest.param("return self.embeddings.latents", False, id="a parameter of a part"),
        pytest.param("return self.own", False, id="a parameter of its own"),
        pytest.param("return self.embeddings.books", False, id="a list of tables (MusicGen)"),
        pytest.param("return self.embeddings.books[0]", True, id="one table of a list"),
        pytest.param("raise NotImplementedError", False, id="an error"),
        pytest.param(
            "if self.embeddings.words:\n            return self.embeddings.words\n        raise ValueError",
            False,
            id="an error at the end",
        ),
    ],
)
def test_whether_a_model_may_name_a_table_of_words(getter: str, expected: bool) -> None:
    text = WORDS + (f"    def get_input_embeddings(self):\n        {getter}\n" if getter else "")
    assert may_name_words(parse_module(text, entry().path), "TinyModel") is expected


@pytest.mark.parametrize(
    ("fields", "keys", "states"),
    [
        pytest.param("hidden_size: int = 4", (), True, id="a field"),
        pytest.param('attribute_map = {"hidden_size": "n_embd"}', (), True, id="a field that is mapped"),
        pytest.param("n_embd: int = 4", (("hidden_size", "n_embd"),), True, id="a field that its use shows"),
        pytest.param('sub_configs_defaults = {"decoder": Other}', (), True, id="another config in it may have one"),
        pytest.param("hidden_sizes: list[int] | None = None", (), False, id="a list of several"),
        pytest.param("hidden_size: list[int] | None = None", (), False, id="several under the name of one"),
    ],
)
def test_whether_a_config_states_one_width(
    tmp_path: Path, fields: str, keys: tuple[tuple[str, str], ...], states: bool
) -> None:
    texts = {
        "__init__.py": '__version__ = "1"',
        "models/auto/x": "",
        entry().config_path: f"class TinyConfig(PreTrainedConfig):\n    {fields}\n",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert states_width(open_release(tmp_path), entry(), keys) is states


TRANSFORM = "cls.predictions.transform"
BERT_LM = (f"{TRANSFORM}.dense", None, f"{TRANSFORM}.LayerNorm", "cls.predictions.decoder")


@pytest.mark.parametrize(
    ("model_type", "class_name", "head_type", "layers"),
    [
        ("llama", "LlamaForSequenceClassification", "classification", (None, "score")),  # upstream's generic head
        ("llama", "LlamaForCausalLM", "causal_lm", ("lm_head",)),
        ("bert", "BertForSequenceClassification", "classification", (None, "classifier")),
        ("bert", "BertForQuestionAnswering", "question_answering", (None, "qa_outputs")),
        ("bert", "BertForMultipleChoice", "multiple_choice", (None, "classifier")),
        ("bert", "BertForMaskedLM", "masked_lm", BERT_LM),
        ("bert", "BertLMHeadModel", "causal_lm", BERT_LM),
        ("gpt2", "GPT2ForTokenClassification", "tagging", (None, "classifier")),
        (
            "bart",
            "BartForSequenceClassification",
            "classification",
            (None, "classification_head.dense", None, None, "classification_head.out_proj"),
        ),
        ("bart", "BartForConditionalGeneration", "seq2seq_lm", ("lm_head",)),
        ("whisper", "WhisperForConditionalGeneration", "seq2seq_lm", ("proj_out",)),
        ("vit", "ViTForImageClassification", "image_classification", (None, "classifier")),
        ("t5", "T5ForConditionalGeneration", "seq2seq_lm", ("lm_head",)),
        ("gemma2", "Gemma2ForCausalLM", "causal_lm", ("lm_head",)),
        ("marian", "MarianMTModel", "seq2seq_lm", ("lm_head",)),
        ("modernbert", "ModernBertForMaskedLM", "masked_lm", ("head.dense", None, "head.norm", "decoder")),
        ("xlm", "XLMWithLMHeadModel", "", ()),  # its prediction layer gives a loss and logits, or logits only
    ],
)
def test_upstream_heads(
    release: Release,
    mappings: AutoMappings,
    upstream_facts: Callable[[str], ModuleFacts],
    model_type: str,
    class_name: str,
    head_type: str,
    layers: tuple[str | None, ...],
) -> None:
    text_to_text = model_type in {"bart", "whisper", "t5", "marian"}
    name = mappings.entry(model_type).base_class
    base = base_plan("input_ids", encoder_decoder=text_to_text)
    facts = upstream_facts(model_type)
    pretrained = facts.classes[name].lineage[1]
    prefix = literal_string(facts.classes[name].attributes.get("base_model_prefix")) or ""
    base = replace(base, class_name=name, pretrained_class=pretrained, prefix=prefix)
    known = mappings.entry(model_type)
    heads = plan_static_heads(release, known, facts, base, plan_flexible_heads(known, base))
    (head,) = (head for head in heads if head.class_name == class_name)
    assert (head.head_type, head.layers) == (head_type, layers)
