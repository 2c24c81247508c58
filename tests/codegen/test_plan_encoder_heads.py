"""Heads on the encoder of a model with a decoder: which class has one, and which only looks like it."""

from __future__ import annotations

import pytest

from adapter_codegen.model import ModelPlan
from adapter_codegen.parse import parse_module
from adapter_codegen.plan.heads.encoders import encoder_alone, encoder_read
from adapter_codegen.plan.heads.logits.chain import head_chain
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.plan.model import plan_model
from adapter_codegen.upstream import open_release

PATH = "models/whisper/modeling_whisper.py"
HEAD = "WhisperForAudioClassification"


T5 = "models/t5/modeling_t5.py"
TAGGER = "T5ForTokenClassification"


def plan(model_type: str = "whisper") -> ModelPlan:
    found = plan_model(open_release(), model_type)
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


def test_a_model_that_is_the_encoder_alone_is_read_as_that() -> None:
    tagger = next(head for head in plan("t5").static_heads if head.class_name == TAGGER)
    assert (tagger.head_type, tagger.part, tagger.reads) == ("tagging", "encoder", "")
    assert "tagging" in plan("t5").flexible_heads


def test_a_tagger_behind_the_decoder_is_none_on_the_encoder() -> None:
    found = plan("t5gemma")
    tagger = next(head for head in found.static_heads if head.class_name == "T5GemmaForTokenClassification")
    assert tagger.head_type == ""
    assert "the decoder" in tagger.reason
    assert "tagging" not in found.flexible_heads


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("return encoder_outputs\n", "return self.norm(encoder_outputs)\n", id="more runs behind the encoder"),
        pytest.param("return encoder_outputs\n", "return encoder_outputs if labels else None\n", id="something else in a way"),
        pytest.param("encoder_outputs: BaseModelOutput = self.encoder(", "encoder_outputs: BaseModelOutput = self.decoder(", id="another module"),
        pytest.param("self.encoder = T5Stack(encoder_config)", "self.encoder = OtherStack(encoder_config)", id="another class of encoder"),
        pytest.param("encoder_outputs: BaseModelOutput = self.encoder(", "encoder_outputs = None\n        encoder_outputs: BaseModelOutput = self.encoder(", id="a value of two places"),
    ],
)  # fmt: skip
def test_a_model_that_does_more_is_no_encoder_alone(old: str, new: str) -> None:
    before, name, after = open_release().read(T5).partition("class T5EncoderModel")
    inside, end, rest = after.partition("class T5ForSequenceClassification")
    assert old in inside
    facts = parse_module(before + name + inside.replace(old, new) + end + rest, T5)
    assert encoder_alone(facts, "T5Model", facts.classes[TAGGER], "transformer") == ""


def test_the_base_model_itself_is_no_encoder_alone() -> None:
    text = (
        open_release()
        .read(T5)
        .replace("self.transformer = T5EncoderModel(config)", "self.transformer = T5Model(config)")
    )
    facts = parse_module(text, T5)
    assert encoder_alone(facts, "T5Model", facts.classes[TAGGER], "transformer") == ""
