"""Which of several stacks is the main one: what the model returns comes out of it."""

from __future__ import annotations

import pytest

from adapter_codegen.model import BasePlan, ModelPlan
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import Release
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer

LAYER = layer("x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))")
MODEL = """
from ...modeling_utils import PreTrainedModel
from ...modeling_outputs import BaseModelOutput
from ..auto import AutoModel

class TinyModel(PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
{}
    def forward(self, input_ids=None, pixels=None):
{}
"""
OWN = "        self.{0} = nn.ModuleList([Layer(config) for _ in range(3)])\n"
ELSEWHERE = "        self.{0} = AutoModel.from_config(config.{0})\n"
RUNS = "        {0} = pixels\n        for layer in self.{0}:\n            {0} = layer({0})\n"
CALLS = "        {0} = self.{0}(pixels).last_hidden_state\n"
SPLICED = "        pixels = input_ids.masked_scatter(pixels > 0, {0})\n"
RETURNS = "        return BaseModelOutput(last_hidden_state={})"


def planned(build: str, run: str) -> BasePlan:
    facts = facts_of(ATTENTION, MLP, LAYER, STACK, MODEL.format(build, run))
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    plan, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).is_layer)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("build", "run", "main", "elsewhere"),
    [
        pytest.param(
            OWN.format("tower") + OWN.format("text"),
            RUNS.format("tower") + SPLICED.format("tower") + RUNS.format("text") + RETURNS.format("text"),
            ["text"],
            [],
            id="a tower's features stand among the tokens",
        ),
        pytest.param(
            OWN.format("tower") + ELSEWHERE.format("text"),
            RUNS.format("tower") + SPLICED.format("tower") + CALLS.format("text") + RETURNS.format("text"),
            [],
            ["text"],
            id="a tower here, the text in another file",
        ),
        pytest.param(
            ELSEWHERE.format("tower") + OWN.format("text"),
            CALLS.format("tower") + SPLICED.format("tower") + RUNS.format("text") + RETURNS.format("text"),
            ["text"],
            [],
            id="a tower in another file, the text here",
        ),
        pytest.param(
            OWN.format("a") + OWN.format("b"),
            RUNS.format("a") + RUNS.format("b") + "        return (a * b,)",
            ["a", "b"],
            [],
            id="towers side by side",
        ),
        pytest.param(
            OWN.format("a") + ELSEWHERE.format("b"),
            RUNS.format("a") + CALLS.format("b") + "        return (a * b,)",
            ["a"],
            ["b"],
            id="towers side by side, one in another file",
        ),
        pytest.param(
            OWN.format("a") + OWN.format("b"),
            RUNS.format("a") + RUNS.format("b") + "        return BaseModelOutput(pooled=b, last_hidden_state=a)",
            ["a"],
            [],
            id="what is returned as hidden states, wherever it stands",
        ),
        pytest.param(
            OWN.format("a") + "        self.more = Stack(config) if config.more else None\n",
            f"{RUNS.format('a')}        if self.more is not None:\n            a = self.more(a)\n{RETURNS.format('a')}",
            ["a"],
            [],
            id="before layers that only some configs ask for",
        ),
        pytest.param(
            OWN.format("a") + OWN.format("b"),
            "        x = input_ids\n        for a, b in zip(self.a, self.b):\n            x = b(a(x))\n"
            + RETURNS.format("x"),
            ["b"],
            [],
            id="two in turn",
        ),
        pytest.param(
            OWN.format("a") + OWN.format("b"), "        return pixels", ["a"], [], id="the first, if none is seen"
        ),
    ],
)
def test_the_main_stack(build: str, run: str, main: list[str], elsewhere: list[str]) -> None:
    plan = planned(build, run)
    assert [stack.path for stack in plan.stacks if stack.is_main] == main
    assert [model.path for model in plan.models if model.is_main] == elsewhere


@pytest.mark.parametrize(
    ("model_type", "main"),
    [
        ("llama", ["layers"]),
        ("bart", ["decoder.layers"]),
        ("clip", ["text_model.encoder.layers", "vision_model.encoder.layers"]),
        ("qwen2_vl", ["language_model.layers"]),
        ("detr", ["decoder.layers"]),
        ("wav2vec2-bert", ["encoder.layers"]),
        ("canine", ["final_char_encoder.layer"]),
    ],
)
def test_main_stacks_of_upstream(release: Release, model_type: str, main: list[str]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert [stack.path for stack in plan.base.stacks if stack.is_main] == main
