"""Edits for a method that every model which holds the layers refuses are not made, and those that one model can reach are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from adapter_codegen.model import Method, MethodSupport, ModelPlan, TowerPlan
from adapter_codegen.parse import parse_module
from adapter_codegen.plan import ModulePlan, plan_model, plan_module
from adapter_codegen.plan.told.unreached import without_unreached
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import open_release

PATH = "models/llama/modeling_llama.py"
WITH_SITES = ["LlamaAttention", "LlamaDecoderLayer"]


@cache
def found() -> ModulePlan:
    return plan_module(parse_module(open_release().read(PATH), PATH))


@cache
def llama() -> ModelPlan:
    plan = plan_model(open_release(), "llama", found=found(), verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    return plan


def refusing(*methods: Method) -> tuple[MethodSupport, ...]:
    return tuple(MethodSupport(method, method not in methods, "no" if method in methods else "") for method in Method)


def names(plan: ModelPlan) -> list[str]:
    return [entry.name for entry in without_unreached(plan, found()).classes]


def test_nothing_goes_where_all_is_supported() -> None:
    assert names(llama()) == WITH_SITES
    assert without_unreached(llama(), found()) is llama()


def test_other_methods_have_no_edits() -> None:
    assert names(replace(llama(), methods=refusing(Method.LORA, Method.REFT, Method.PROMPT_TUNING))) == WITH_SITES


def test_of_a_refused_prefix_the_attention_stays_upstreams() -> None:
    assert names(replace(llama(), methods=refusing(Method.PREFIX_TUNING))) == ["LlamaDecoderLayer"]


def test_of_refused_bottlenecks_neither_edit_nor_role_stays_and_what_else_the_layer_has_does() -> None:
    plan = without_unreached(replace(llama(), methods=refusing(Method.BOTTLENECK)), found())
    assert [entry.name for entry in plan.classes] == ["LlamaAttention"]
    (layer,) = plan.layers
    assert layer == replace(llama().layers[0], bottlenecks=())


@pytest.mark.parametrize(
    ("whole", "tower", "kept"),
    [
        pytest.param((), (Method.PREFIX_TUNING,), True, id="the base model takes what its tower refuses"),
        pytest.param((Method.PREFIX_TUNING,), (), True, id="a tower takes what the base model refuses"),
        pytest.param((Method.PREFIX_TUNING,), (Method.PREFIX_TUNING,), False, id="both refuse"),
    ],
)
def test_one_model_that_reaches_an_edit_is_enough(
    whole: tuple[Method, ...], tower: tuple[Method, ...], kept: bool
) -> None:
    base = llama().base
    plan = replace(llama(), methods=refusing(*whole), towers=(TowerPlan(base, refusing(*tower)),))
    assert ("LlamaAttention" in names(plan)) is kept


def test_what_the_lists_of_a_model_lack_is_refused_there() -> None:
    base = replace(llama().base, lacks=((Method.PREFIX_TUNING, "no keys"),))
    assert names(replace(llama(), base=base)) == ["LlamaDecoderLayer"]


def test_layers_that_no_known_model_holds_keep_their_edits() -> None:
    base = replace(llama().base, stacks=())
    assert names(replace(llama(), base=base, methods=refusing(Method.PREFIX_TUNING))) == WITH_SITES


@pytest.mark.parametrize(
    ("model_type", "class_name", "kept"),
    [
        pytest.param(
            "instructblip", "InstructBlipAttention", False, id="its vision tower has keys of no stated width"
        ),
        pytest.param(
            "instructblip", "InstructBlipQFormerMultiHeadAttention", True, id="and its Q-Former of a stated one"
        ),
        pytest.param("prophetnet", "ProphetNetAttention", True, id="the decoder refuses and the encoder does not"),
    ],
)
def test_parts_of_one_file(model_type: str, class_name: str, kept: bool) -> None:
    plan = plan_model(open_release(), model_type)
    assert isinstance(plan, ModelPlan)
    assert (class_name in {entry.name for entry in plan.classes}) is kept
