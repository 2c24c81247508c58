"""Which classes of a model type are tried, and with what."""

from __future__ import annotations

import pytest

from conformance.subjects import architecture, auto, method_subjects


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        pytest.param("emu3", "", id="a language model that is built with the config of the text model alone"),
        pytest.param("llama", "LlamaForCausalLM", id="a class of the type itself"),
        pytest.param("musicgen", "MusicgenForCausalLM", id="the base model is that of a part as well"),
        pytest.param("iquestcoder", "LlamaForCausalLM", id="the class of another type, that is no part"),
    ],
)
def test_a_class_of_a_part_is_no_class_of_the_whole(model_type: str, name: str) -> None:
    assert architecture(model_type, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == name


@pytest.mark.parametrize(
    ("model_type", "text", "given"),
    [
        pytest.param("diffusion_gemma", False, {"input_ids", "decoder_input_ids"}, id="two rows, no encoder-decoder"),
        pytest.param("dia", False, {"input_ids", "decoder_input_ids"}, id="books of codes"),
        pytest.param("t5", True, {"input_ids", "decoder_input_ids"}, id="an encoder-decoder of text"),
        pytest.param("bert", True, {"input_ids"}, id="an encoder of text"),
    ],
)
def test_what_a_class_reads(model_type: str, text: bool, given: set[str]) -> None:
    subject = method_subjects(model_type)[0]
    assert subject.text is text
    assert set(subject.padded_inputs()) == given


def test_a_head_that_reads_something_else_than_its_base_model_is_left_aside() -> None:
    assert method_subjects("perceiver")[0].architecture == "PerceiverModel"
    assert method_subjects("roberta")[0].architecture == "RobertaForMaskedLM"
    assert method_subjects("speecht5")[0].architecture == "SpeechT5Model"
    assert method_subjects("t5")[0].architecture == "T5ForConditionalGeneration"
