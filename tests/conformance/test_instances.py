"""The data file of tiny instances: it is in step with upstream, and what it says builds and runs."""

from __future__ import annotations

import pytest
import torch
import transformers

from conformance import instances
from conformance.instances.fields import model_types
from conformance.outputs import flatten


def test_file_is_of_the_installed_release() -> None:
    assert instances.release() == transformers.__version__, "search again: python -m conformance.instances --all"


def test_no_model_type_stands_in_both_lists_or_is_unknown() -> None:
    assert not set(instances.names()) & set(instances.without())
    assert {*instances.names(), *instances.without()} <= set(model_types())


def test_no_config_says_that_it_is_of_another_model_type() -> None:
    named = {model_type: instances._file()["instances"][model_type]["config"] for model_type in instances.names()}
    assert [name for name, fields in named.items() if fields.get("model_type", name) != name] == []


@pytest.mark.parametrize(
    "model_type", ["bert", "llama", "clip", "bart", "audio-spectrogram-transformer", "aya_vision"]
)
def test_instance_rebuilds_and_runs(model_type: str) -> None:
    instance = instances.read(model_type)
    model = instance.model_class._from_config(instance.config(), dtype=torch.float32).eval()
    with torch.no_grad():
        outputs = [flatten(model(**instance.inputs(seed))) for seed in (0, 0)]
    assert outputs[0]
    for name, value in outputs[0].items():
        assert torch.equal(value, outputs[1][name]), name


@pytest.mark.parametrize("model_type", ["kimi_k25", "paligemma", "llava", "qwen3_vl"])
def test_what_stands_for_an_image_is_a_token_of_the_text(model_type: str) -> None:
    """Else heads cannot score it, nor can it be embedded."""
    instance = instances.read(model_type)
    tokens = instance.inputs()["input_ids"]
    assert tokens.max() < instance.config().get_text_config().vocab_size


def test_each_row_has_as_many_places_as_its_image_has_features() -> None:
    """ColQwen2 does not check it: with too few, the places of a row were filled from the image of another."""
    instance = instances.read("colqwen2")
    model = instance.model_class._from_config(instance.config(), dtype=torch.float32).eval()
    inputs = instance.inputs()
    with torch.no_grad():
        once = model(**inputs).embeddings
        twice = model(**{name: torch.cat([value, value]) for name, value in inputs.items()}).embeddings
    assert torch.allclose(twice, torch.cat([once, once]), atol=1e-5)


def test_another_seed_gives_other_inputs() -> None:
    instance = instances.read("bert")
    assert not torch.equal(instance.inputs(0)["input_ids"], instance.inputs(1)["input_ids"])


def test_unknown_model_type_says_how_to_search_it() -> None:
    with pytest.raises(KeyError, match="python -m conformance"):
        instances.read("no such model")
