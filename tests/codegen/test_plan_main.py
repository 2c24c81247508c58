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
        ("groupvit", ["text_model.encoder.layers", "vision_model.encoder.stages.*.layers"]),
        ("detr", ["decoder.layers"]),
        ("wav2vec2-bert", ["encoder.layers"]),
        ("canine", ["final_char_encoder.layer"]),
    ],
)
def test_main_stacks_of_upstream(release: Release, model_type: str, main: list[str]) -> None:
    plan = plan_model(release, model_type, verdicts=NO_VERDICTS)
    assert isinstance(plan, ModelPlan)
    assert [stack.path for stack in plan.base.stacks if stack.is_main] == main


BESIDE = """
        self.embed = nn.Embedding(9, 8)
        self.patch = nn.Embedding(9, 8)
        self.fuse = nn.Linear(8, 8)
        self.tower = nn.ModuleList([Layer(config) for _ in range(2)])
        self.text = nn.ModuleList([Layer(config) for _ in range(2)])
        self.tower_norm = nn.LayerNorm(8)
        self.text_norm = nn.LayerNorm(8)
"""
TOWER = """
        seen = self.patch(pixels)
        for layer in self.tower:
            seen = layer(seen)
        seen = self.tower_norm(seen)
"""
TEXT = """
        x = self.embed(input_ids)
        for layer in self.text:
            x = layer(x, states=seen)
        return BaseModelOutput(last_hidden_state=self.text_norm(x))
"""


@pytest.mark.parametrize(
    ("run", "entrance", "norm"),
    [
        pytest.param(TOWER + TEXT, "embed", "text_norm", id="what feeds the main stack, though a tower runs first"),
        pytest.param(
            TOWER + TEXT.replace("self.embed(input_ids)", "self.embed(input_ids) + self.fuse(seen)"),
            "",
            "text_norm",
            id="none, where the main stack is fed with a mix",
        ),
        pytest.param(
            TOWER + TEXT.replace("self.embed(input_ids)", "seen"),
            "patch",
            "text_norm",
            id="of the first, if the main one goes on with it",
        ),
        pytest.param(
            TOWER + TEXT.replace("self.embed(input_ids)", "self.fuse(seen)"),
            "patch",
            "text_norm",
            id="of the first, if the main one goes on with a projection of it",
        ),
        pytest.param(
            TOWER + "        return BaseModelOutput(last_hidden_state=seen)\n",
            "patch",
            "tower_norm",
            id="the only stack that runs",
        ),
    ],
)
def test_the_entrance_is_that_of_the_main_stack(run: str, entrance: str, norm: str) -> None:
    plan = planned(BESIDE, run)
    assert (plan.embedding_output, plan.final_norm) == (entrance, norm)


def test_the_entrance_of_an_encoder_decoder_is_that_of_its_encoder() -> None:
    forward = TOWER.replace("pixels", "input_ids") + TEXT.replace("self.embed(input_ids)", "self.embed(pixels)")
    text = MODEL.format(BESIDE, forward).replace("pixels=None", "pixels=None, encoder_outputs=None")
    facts = facts_of(ATTENTION, MLP, LAYER, STACK, text)
    entry = ModelEntry("tiny", facts.path, "TinyConfig", "", "TinyModel", {})
    plan, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).is_layer)
    assert plan is not None and plan.embedding_output == "patch"
    assert [stack.path for stack in plan.stacks if stack.is_main] == ["text"]
