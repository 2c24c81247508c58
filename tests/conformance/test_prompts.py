"""Prompts for classes that generate, and inputs with other numbers of images, are what they say."""

from __future__ import annotations

import pytest
import torch

from conformance.checks.decoding import decoding_of
from conformance.outputs import run
from conformance.prompts import MASK, TOKENS, generating, has_more_than_tokens, plain_tokens, stands_for_more, ways
from conformance.several import with_other_numbers
from conformance.subjects import BATCH, PADS, method_subjects


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        pytest.param("llava", "LlavaForConditionalGeneration", id="a head around the same base model"),
        pytest.param("gemma3", "Gemma3ForConditionalGeneration", id="itself"),
        pytest.param("bert", None, id="an encoder of text"),
        pytest.param("vit", None, id="images alone"),
        pytest.param("blip-2", None, id="the one that generates holds the parts itself"),
    ],
)
def test_which_class_generates(model_type: str, name: str | None) -> None:
    found = generating(method_subjects(model_type)[0])
    assert (found.architecture if found else None) == name


@pytest.mark.parametrize(("model_type", "first"), [("llava", 0), ("paligemma", 1), ("qwen2_vl", None)])
def test_prompts_with_an_image_are_padded_and_counted_as_upstream_counts(model_type: str, first: int | None) -> None:
    subject = generating(method_subjects(model_type)[0])
    assert subject is not None and has_more_than_tokens(subject)
    known = decoding_of(subject)
    assert known is not None and known.is_stepwise and known.way.first_position == first
    tokens, given = known.prompts[TOKENS], subject.padded_inputs()[TOKENS]
    assert torch.equal(tokens[:, max(PADS) :], given)  # the image stands where it stood, behind what is padded
    assert known.prompts[MASK].sum(1).tolist() == [tokens.shape[1] - pads for pads in PADS]


def test_a_mask_of_a_sound_that_is_as_wide_as_the_text_does_not_go_along_with_it() -> None:
    subject = generating(method_subjects("qwen2_audio")[0])
    assert subject is not None
    assert any("feature_attention_mask" in way.along for way in ways(subject))
    known = decoding_of(subject)
    assert known is not None and known.way.along == {TOKENS, MASK}


def test_rows_with_other_numbers_of_images() -> None:
    (subject,) = method_subjects("llava")
    inputs, (image,) = subject.padded_inputs(), stands_for_more("llava")
    per_image = int((inputs[TOKENS] == image).sum()) // BATCH
    found = {what.split(",")[0]: given for what, given in with_other_numbers(subject)}
    counts = {what: (given[TOKENS] == image).sum(1).tolist() for what, given in found.items()}
    twice, once = 2 * per_image, per_image
    assert counts["without images"] == [0] * BATCH and "pixel_values" not in found["without images"]
    assert counts["two images in a row"] == [twice] * BATCH
    assert counts["two images in one row"] == [twice, *[once] * (BATCH - 1)]
    images, pixels = inputs["pixel_values"], found["two images in one row"]["pixel_values"]
    assert torch.equal(pixels, images[[0, 0, *range(1, BATCH)]])
    assert torch.equal(found["two images in a row"]["pixel_values"], images.repeat_interleave(2, dim=0))


@pytest.mark.parametrize(
    ("model_type", "what"),
    [
        pytest.param(
            "mllama", "two images in a row along an axis that the text counts", id="a mask of tokens and images"
        ),
        pytest.param("granite_speech", "two images in one row", id="a sound with as many frames as there are tokens"),
        pytest.param("minicpm_ocr", "two images in a row along the last axis", id="images side by side"),
    ],
)
def test_upstream_takes_rows_with_other_numbers(model_type: str, what: str) -> None:
    subject, *_ = method_subjects(model_type)
    found = {label.split(",")[0]: given for label, given in with_other_numbers(subject)}
    once, more = run(subject.upstream(), subject.padded_inputs()), run(subject.upstream(), found[what])
    assert once.keys() == more.keys()


def test_images_stand_side_by_side_in_few_models() -> None:
    (subject,) = method_subjects("llava")
    assert not [what for what, _ in with_other_numbers(subject) if "last axis" in what or "counts" in what]


def test_plain_tokens_stand_for_no_image() -> None:
    (subject,) = method_subjects("gemma3")
    tokens = plain_tokens(subject, 200, seed=1)
    assert not torch.isin(tokens, torch.tensor(stands_for_more("gemma3"))).any()
    assert not list(with_other_numbers(method_subjects("llama")[0]))


def test_what_an_encoder_gave_is_no_image() -> None:
    """TrOCR's decoder would read two of its rows as one that is longer."""
    (subject,) = method_subjects("trocr")
    assert "encoder_hidden_states" in subject.padded_inputs()
    assert [what for what, _ in with_other_numbers(subject)] == ["without images"]


@pytest.mark.parametrize(
    ("model_type", "tokens"),
    [
        pytest.param("ovis2", [87, 88, 89, 90, 91, 92], id="what marks an image beside the places of it"),
        pytest.param("llava", [98], id="the places of an image alone, and no end of a text"),
        pytest.param("llama", [], id="a text alone"),
    ],
)
def test_tokens_that_no_text_would_hold_are_not_generated(model_type: str, tokens: list[int]) -> None:
    assert stands_for_more(model_type) == tokens
