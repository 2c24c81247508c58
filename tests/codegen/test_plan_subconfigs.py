"""Of which config the modules of a head read that are made with a config in that of the model."""

from __future__ import annotations

import libcst as cst
import pytest

from adapter_codegen.model import ModelPlan
from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.logits.chain import submodule_at
from adapter_codegen.plan.heads.logits.configs.subconfigs import as_of_whole
from adapter_codegen.plan.model import plan_model
from adapter_codegen.upstream import open_release

SOURCE = """
from torch import nn
from ...activations import ACT2FN

class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.inner.size, bias=config.bias)
        self.act = ACT2FN[config.hidden_act]

class Outer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.block = Block({inner})

class Head(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.outer = Outer({outer})
"""


@pytest.mark.parametrize(
    ("outer", "inner", "prefix"),
    [
        pytest.param("config", "config", "", id="that of the model"),
        pytest.param("config.text_config", "config", "text_config.", id="one in it"),
        pytest.param("config", "config.text_config", "text_config.", id="one in it, of a module inside"),
        pytest.param("config.a_config", "config.b_config", "a_config.b_config.", id="one in one in it"),
        pytest.param("config.decoder.text_config", "config", "decoder.text_config.", id="one two levels below"),
        pytest.param("config=config.text_config", "config", "text_config.", id="by keyword"),
        pytest.param("config.hidden_size", "config", "", id="a field that is no config"),
    ],
)
def test_fields_go_by_their_place_in_the_config_of_the_model(outer: str, inner: str, prefix: str) -> None:
    facts = parse_module(SOURCE.format(outer=outer, inner=inner), "models/tiny/modeling_tiny.py")
    head = facts.classes["Head"]

    def arguments(name: str) -> list[str]:
        submodule = submodule_at(facts, head, f"outer.block.{name}")
        assert submodule is not None
        found = as_of_whole(facts, head, f"outer.block.{name}", submodule)
        return [cst.Module([]).code_for_node(argument.value) for argument in found.arguments]

    assert arguments("dense") == [f"config.{prefix}hidden_size", f"config.{prefix}inner.size", f"config.{prefix}bias"]


def test_heads_on_a_text_part_ask_its_config() -> None:
    plan = plan_model(open_release(), "modernvbert")
    assert isinstance(plan, ModelPlan)
    heads = {head.head_type: dict(head.config) for head in plan.static_heads}
    assert {*heads} == {"classification", "tagging", "masked_lm"}
    for options in heads.values():
        assert options["activation_key"] == "text_config.classifier_activation"
        assert "activation_function" not in options  # no default is known of a config in another
        assert (options["norm_eps_key"], options["hidden_bias_key"]) == (
            "text_config.norm_eps",
            "text_config.classifier_bias",
        )
    assert heads["masked_lm"]["bias_key"] == "text_config.decoder_bias"
    assert heads["classification"]["requires"] == {"classifier_pooling": "cls"}
