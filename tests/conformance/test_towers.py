"""Models inside of a model are taken out of it, and take adapters by themselves: a sample of model types, and all with ``--full``."""

from __future__ import annotations

import json
import random
from importlib.resources import files

import pytest
import torch
from transformers import Cache, DynamicCache

from conformance import instances, towers
from conformance.checks.union import every_method_together
from conformance.outputs import fresh
from conformance.subjects import Subject, head_subjects
from conformance.supported import supported_can_be_added

SEED, DRAWN = 2026, 6
RECORDS = json.loads(files("adapter_models").joinpath("manifest.json").read_text("utf-8"))["models"]
MODELS = [model_type for model_type, record in RECORDS.items() if record.get("towers")]
SAMPLE = set(random.Random(SEED).sample(MODELS, min(DRAWN, len(MODELS))))


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=[] if name in SAMPLE else [pytest.mark.full]) for name in MODELS],
)
def test_towers_take_what_they_say(model_type: str) -> None:
    if why := instances.missing(model_type):
        pytest.skip(why)
    for tower in towers.towers_of(model_type):
        supported_can_be_added(tower)
        every_method_together(tower)


@pytest.fixture(scope="module")
def siglip() -> Subject:
    return head_subjects("siglip")[0]


def test_a_tower_is_given_what_the_whole_gives_it(siglip: Subject) -> None:
    model, inputs = siglip.upstream(), siglip.padded_inputs()
    calls = towers._calls(model, {"text_model": model.get_submodule("text_model")}, inputs)
    assert torch.equal(calls["text_model"]["input_ids"], inputs["input_ids"])
    assert not {"output_hidden_states", "return_dict", "pixel_values"} & calls["text_model"].keys()


def test_only_classes_of_the_file_are_tried_around_a_tower() -> None:
    """Upstream notes on a class that was built what all derived ones inherit, so `PreTrainedModel` itself is never built."""
    assert "PreTrainedModel" not in {subject.architecture for subject in towers._classes_around("siglip")}


def test_a_tower_that_the_whole_goes_past_is_given_what_has_the_same_name(siglip: Subject) -> None:
    inputs = siglip.padded_inputs()
    text, vision = (siglip.upstream().get_submodule(f"{name}_model") for name in ("text", "vision"))
    assert towers._by_name(text, inputs).keys() == {"input_ids"} | (inputs.keys() & {"attention_mask"})
    assert not towers._by_name(vision, {"input_ids": inputs["input_ids"]}), "it reads images"


@pytest.mark.parametrize(
    ("name", "value", "is_left_out"),
    [
        pytest.param("past_key_values", DynamicCache(), True, id="an empty cache: a tower makes its own"),
        pytest.param("position_ids", torch.zeros(3, 2, 4), True, id="positions in three dimensions"),
        pytest.param("position_ids", torch.zeros(2, 4), False, id="positions"),
        pytest.param("mask", None, True, id="what is not given"),
        pytest.param("pixels", torch.zeros(3, 2, 4), False, id="another tensor of three dimensions"),
    ],
)
def test_what_a_tower_works_out_itself_is_not_given(
    name: str, value: Cache | torch.Tensor | None, is_left_out: bool
) -> None:
    assert towers._is_nothing(name, value) is is_left_out


def test_a_call_may_write_into_what_it_is_given() -> None:
    maps, states = [torch.zeros(2)], torch.zeros(2)
    copied = fresh({"maps": maps, "states": states, "count": 3})
    copied["maps"][0] += 1
    copied["states"] += 1
    copied["maps"].append(copied["states"])
    assert len(maps) == 1 and not maps[0].any() and not states.any()
    assert copied["count"] == 3
