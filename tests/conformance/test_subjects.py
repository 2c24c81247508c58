"""Which classes of a model type are tried, and with what."""

from __future__ import annotations

import pytest
import torch

from conformance.adapted import that_can_undo
from conformance.subjects import (
    FIRST_TOKEN,
    Subject,
    architecture,
    auto,
    head_subjects,
    method_subjects,
    random_tokens,
    with_labels,
)
from conformance.tiny import tiny_config


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
        pytest.param(
            "diffusion_gemma",
            False,
            {"input_ids", "decoder_input_ids", "pixel_values", "image_position_ids"},
            id="two rows, no encoder-decoder, and an image that the forward takes by no name",
        ),
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


def of(model_type: str, name: str) -> Subject:
    return next(subject for subject in head_subjects(model_type) if subject.architecture == name)


@pytest.mark.parametrize(
    "padding",
    [
        pytest.param(FIRST_TOKEN, id="the first of the ids"),
        pytest.param(FIRST_TOKEN + 3, id="one of the ids"),
        pytest.param(None, id="no padding"),
    ],
)
def test_no_token_is_padding(padding: int | None) -> None:
    tokens = random_tokens(tiny_config("llama", vocab_size=FIRST_TOKEN + 5, pad_token_id=padding), 40, seed=1)
    assert {*tokens.unique().tolist()} == {*range(FIRST_TOKEN, FIRST_TOKEN + 5)} - {padding}


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        pytest.param("upernet", ["UperNetForSemanticSegmentation"], id="a class of segmentation alone"),
        pytest.param("vitmatte", ["VitMatteForImageMatting"], id="of matting alone"),
        pytest.param("superglue", ["SuperGlueForKeypointMatching"], id="of matching alone"),
        pytest.param(
            "detr", ["DetrModel", "DetrForSegmentation", "DetrForObjectDetection"], id="the base model first"
        ),
        pytest.param("emu3", ["Emu3Model", "Emu3ForConditionalGeneration"], id="not that of a part"),
    ],
)
def test_classes_of_all_tables_are_tried(model_type: str, names: list[str]) -> None:
    found = [subject.architecture for subject in head_subjects(model_type)]
    assert found[0] == names[0] and sorted(found) == sorted(names)


def test_a_class_that_predicts_tokens_has_labels_whatever_it_is_called() -> None:
    for model_type, name in (("marian", "MarianMTModel"), ("t5", "T5ForConditionalGeneration")):
        subject = of(model_type, name)
        inputs = subject.padded_inputs()
        assert with_labels(subject, inputs)["labels"].equal(inputs["decoder_input_ids"])


def test_labels_are_one_per_position_also_of_books_of_codes() -> None:
    subject = of("kyutai_speech_to_text", "KyutaiSpeechToTextForConditionalGeneration")
    inputs = subject.padded_inputs()
    assert inputs["input_ids"].dim() == 3
    assert with_labels(subject, inputs)["labels"].equal(inputs["input_ids"][..., 0])


def test_labels_are_of_tokens_that_have_logits() -> None:
    """Inkling 2 projects to more than it gives."""
    subject = of("inkling2_text", "Inkling2ForCausalLM")
    tokens = {"input_ids": torch.tensor([[5, 95, 96, 98]])}
    assert subject.config().vocab_size > subject.config().unpadded_vocab_size == 96
    assert with_labels(subject, tokens)["labels"].tolist() == [[5, 95, -100, -100]]


def test_a_base_model_has_no_labels() -> None:
    subject = of("t5", "T5Model")
    assert with_labels(subject, subject.padded_inputs()) is None


def test_an_inverse_is_looked_for_where_a_head_calls_its_projection() -> None:
    (mobile,), bert = method_subjects("mobilebert"), method_subjects("bert")[0]
    assert (mobile.architecture, that_can_undo(mobile).architecture) == ("MobileBertForMaskedLM", "MobileBertModel")
    assert that_can_undo(bert) == bert  # it calls it
    (vit,) = method_subjects("vit")
    assert that_can_undo(vit) == vit  # it has none
