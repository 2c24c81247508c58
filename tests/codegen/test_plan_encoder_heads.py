"""Heads on the encoder of a model with a decoder: which class has one, and which only looks like it."""

from __future__ import annotations

import pytest

from adapter_codegen.model import ModelPlan
from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.encoders import encoder_read
from adapter_codegen.plan.heads.logits.chain import head_chain
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.plan.model import plan_model
from adapter_codegen.upstream import open_release

PATH = "models/whisper/modeling_whisper.py"
HEAD = "WhisperForAudioClassification"


def plan() -> ModelPlan:
    found = plan_model(open_release(), "whisper")
    assert isinstance(found, ModelPlan)
    return found


def test_a_head_on_the_encoder_is_told_from_those_behind_the_decoder() -> None:
    heads = {head.head_type: head for head in plan().static_heads if head.head_type}
    assert {name: head.part for name, head in heads.items()} == {"audio_classification": "encoder", "seq2seq_lm": ""}
    assert heads["audio_classification"].reads == "mean"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        pytest.param("", "", "decoder", id="the decoder"),
        pytest.param("", "", "", id="the base model"),
        pytest.param("self.encoder = WhisperEncoder(config)\n        num_layers", "self.encoder = OtherEncoder(config)\n        num_layers", "encoder", id="another class of encoder"),
        pytest.param("encoder_last_hidden_state=encoder_outputs.last_hidden_state", "encoder_last_hidden_state=encoder_outputs.hidden_states", "encoder", id="other states are given"),
        pytest.param("encoder_last_hidden_state=encoder_outputs.last_hidden_state", "encoder_attentions=None", "encoder", id="no states are given"),
        pytest.param("encoder_outputs = self.encoder(", "encoder_outputs = self.decoder(", "encoder", id="what is given is of the decoder"),
    ],
)  # fmt: skip
def test_anything_else_is_no_encoder_that_a_head_reads(old: str, new: str, part: str) -> None:
    text = open_release().read(PATH)
    assert old in text
    facts = parse_module(text.replace(old, new), PATH)
    assert encoder_read(facts, plan().base, facts.classes[HEAD], part) == ""


def test_outputs_that_a_caller_may_give_are_those_of_the_encoder() -> None:
    facts = parse_module(open_release().read(PATH), PATH)
    chain = head_chain(facts, HEAD, "WhisperModel", "model")
    assert (chain.part, chain.reads, chain.requires) == ("encoder", "mean", (("use_weighted_layer_sum", False),))
    assert encoder_read(facts, plan().base, facts.classes[HEAD], "encoder") == "encoder"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("last_hidden_state=encoder_outputs[0],", "last_hidden_state=self.encoder(input_features)[0],", id="another branch runs a module"),
        pytest.param("hidden_states = encoder_outputs[0]\n", "hidden_states = encoder_outputs[0].exp()\n", id="a method changes the numbers"),
        pytest.param("if encoder_outputs is None:", "if labels is None:", id="labels decide"),
    ],
)  # fmt: skip
def test_other_ways_to_the_encoder_are_not_followed(old: str, new: str) -> None:
    before, name, after = open_release().read(PATH).partition(f"class {HEAD}")
    assert old in after
    text = before + name + after.replace(old, new)
    with pytest.raises(Unclear):
        head_chain(parse_module(text, PATH), HEAD, "WhisperModel", "model")
