"""Heads that `adapters` 1.3.0 saved load here, and give the logits and losses that it gave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import PreTrainedModel

from adapter_models import AutoAdapterModel
from adapter_runtime.heads.errors import UnsupportedHeadError
from conformance.tiny import tiny_config

RECORDED = Path(__file__).parent / "fixtures" / "heads"
EXPECTED = load_file(RECORDED / "expected.safetensors")
HEADS = ("single", "multi", "pooled", "tags", "span", "choice", "tree", "masked", "causal")


def base() -> PreTrainedModel:
    return AutoAdapterModel.from_pretrained(RECORDED / "base").eval()


def recorded(head: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Arguments of the call, and the fields that it gave."""
    inputs = {name: EXPECTED[name] for name in ("input_ids", "attention_mask")}
    if head == "choice":
        inputs = {name: value[None] for name, value in inputs.items()}
    fields = {key.removeprefix(f"{head}."): value for key, value in EXPECTED.items() if key.startswith(f"{head}.")}
    given = {key.removeprefix("given."): value for key, value in fields.items() if key.startswith("given.")}
    return {**inputs, **given}, {key: value for key, value in fields.items() if not key.startswith("given.")}


@pytest.mark.parametrize("head", HEADS)
def test_a_recorded_head_gives_the_recorded_outputs(head: str) -> None:
    model = base()
    assert model.load_head(RECORDED / head) == head
    arguments, fields = recorded(head)
    with torch.no_grad():
        outputs = model(**arguments, head=head)
    assert "loss" in fields
    for name, value in fields.items():
        assert_close(outputs[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_a_recorded_head_is_written_again_with_the_same_config_and_tensors(head: str, tmp_path: Path) -> None:
    model = base()
    model.load_head(RECORDED / head)
    model.save_head(tmp_path, head, use_safetensors=False)
    ours, theirs = (json.loads((folder / "head_config.json").read_text()) for folder in (tmp_path, RECORDED / head))
    assert ours["config"] == theirs["config"]
    file = "pytorch_model_head.bin"
    written, read = (torch.load(folder / file, weights_only=True) for folder in (tmp_path, RECORDED / head))
    tied = set(model.all_tied_weights_keys)  # `adapters` writes the embeddings once more
    assert {key: tuple(value.shape) for key, value in written.items()} == {
        key: tuple(value.shape) for key, value in read.items() if key not in tied
    }
    assert all(torch.equal(written[key], read[key]) for key in written)


def test_a_loaded_head_is_active_unless_the_caller_says_otherwise() -> None:
    model = base()
    model.add_tagging_head("mine")
    model.load_head(RECORDED / "single", set_active=False)
    assert model.active_head == "mine"
    model.load_head(RECORDED / "single")
    assert model.active_head == "single"


def test_names_of_classes_of_old_releases_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "head"
    shutil.copytree(RECORDED / "single", folder)
    document = json.loads((folder / "head_config.json").read_text())
    document["model_class"] = "BertModelWithHeads"
    (folder / "head_config.json").write_text(json.dumps(document))
    model = base()
    assert model.load_head(folder, load_as="again") == "again"
    arguments, fields = recorded("single")
    with torch.no_grad():
        assert_close(model(**arguments, head="again").logits, fields["logits"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "option", [{"multilabel": True, "head_type": "classification"}, {"head_type": "multilabel_classification"}]
)
def test_both_ways_to_say_multilabel_are_read(option: dict[str, Any]) -> None:
    model = base()
    model.add_prediction_head_from_config("h", {"num_labels": 3, **option})
    assert model.heads["h"].head_type == "multilabel_classification"


def test_a_recorded_head_takes_the_place_of_one_with_the_same_layers_and_other_names() -> None:
    model = base()
    model.add_classification_head("single", num_labels=3)
    assert model.get_labels("single") == ["LABEL_0", "LABEL_1", "LABEL_2"]
    model.load_head(RECORDED / "single")
    assert model.get_labels("single") == ["low", "mid", "high"]
    arguments, fields = recorded("single")
    with torch.no_grad():
        assert_close(model(**arguments, head="single").logits, fields["logits"], rtol=1e-5, atol=1e-6)


def test_a_recorded_head_does_not_take_the_place_of_one_with_other_layers() -> None:
    model = base()
    model.add_classification_head("single", num_labels=3, layers=1)
    with pytest.raises(ValueError, match="has a head 'single' with another config"):
        model.load_head(RECORDED / "single")
    assert model.heads["single"].config["layers"] == 1
    assert model.get_labels("single") == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_a_head_that_the_model_cannot_have_is_refused_from_a_config_too() -> None:
    model = AutoAdapterModel.from_config(tiny_config("llama"))
    with pytest.raises(UnsupportedHeadError, match="takes no head of type 'masked_lm'"):
        model.add_prediction_head_from_config("h", {"head_type": "masked_lm"})
    assert len(model.heads) == 0
