"""Adapters outlive renames of upstream's modules: ViT's became others in 5.x, files of old carry the old names."""

from __future__ import annotations

import pytest
import torch
from transformers import BeitConfig, BeitModel, PreTrainedModel, ViTConfig, ViTForImageClassification, ViTModel

from adapter_runtime.files.formats.renames import fit_names

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 16,
    "patch_size": 8,
}
NEW = (  # places of adapters in the vit of today
    "layers.{}.attention.q_proj.loras.a.lora_A",
    "layers.{}.attention.v_proj.loras.a.lora_B",
    "layers.{}.mlp.fc1.loras.a.lora_B",
    "layers.{}.attention_adapters.adapters.a.adapter_up.weight",
    "layers.{}.output_adapters.adapters.a.adapter_up.weight",
    "layers.{}.output_adapters.adapter_fusion_layer.a,b.value.weight",
    "layers.{}.attention.prefix_tuning.prefix_gates.a.weight",
    "layers.{}.reft_layer.refts.a.units.0.projection.weight",
)
OLD = (  # the same as `adapters` wrote them
    "encoder.layer.{}.attention.attention.query.loras.a.lora_A",
    "encoder.layer.{}.attention.attention.value.loras.a.lora_B",
    "encoder.layer.{}.intermediate.dense.loras.a.lora_B",
    "encoder.layer.{}.attention_adapters.adapters.a.adapter_up.weight",
    "encoder.layer.{}.output.output_adapters.adapters.a.adapter_up.weight",
    "encoder.layer.{}.output.output_adapters.adapter_fusion_layer.a,b.value.weight",
    "encoder.layer.{}.attention.attention.prefix_tuning.prefix_gates.a.weight",
    "encoder.layer.{}.reft_layer.refts.a.units.0.projection.weight",
)


def numbered(keys: tuple[str, ...], prefix: str = "") -> dict[str, torch.Tensor]:
    """A tensor for each key in each layer, told apart by its value."""
    names = [f"{prefix}{key.format(layer)}" for layer in range(2) for key in keys]
    return {name: torch.tensor(float(index)) for index, name in enumerate(names)}


def model(cls: type[PreTrainedModel]) -> PreTrainedModel:
    return cls(BeitConfig(**SMALL) if cls is BeitModel else ViTConfig(**SMALL))


@pytest.mark.parametrize(
    ("cls", "prefix"),
    [(ViTModel, ""), (ViTForImageClassification, "vit."), (BeitModel, "")],
    ids=lambda item: str(item),
)
@pytest.mark.parametrize("written_with", ["", "base."])
def test_files_of_old_are_read_under_the_names_of_today(
    cls: type[PreTrainedModel], prefix: str, written_with: str
) -> None:
    target = model(cls)
    written = f"{target.base_model_prefix}." if written_with else ""
    expected = numbered(NEW, prefix)
    found = fit_names(numbered(OLD, written), expected, target, target.base_model_prefix)
    assert found == expected


@pytest.mark.parametrize("position", range(len(OLD)))
def test_each_place_is_found_by_itself(position: int) -> None:
    """No place may count on another one being renamed along."""
    expected = numbered((NEW[position],), "vit.")
    target = model(ViTForImageClassification)
    assert fit_names(numbered((OLD[position],), "vit."), expected, target, "vit") == expected


def test_files_of_today_stay_as_they_are() -> None:
    target = model(ViTModel)
    assert fit_names(numbered(NEW), numbered(NEW), target, "vit") == numbered(NEW)


def test_what_two_tensors_claim_nobody_gets() -> None:
    target = model(ViTModel)
    given = {
        "encoder.layer.0.output.output_adapters.adapters.a.gate.weight": torch.zeros(1),
        "encoder.layer.0.middle.output_adapters.adapters.a.gate.weight": torch.ones(1),
    }
    expected = {"layers.0.output_adapters.adapters.a.gate.weight": torch.zeros(1)}
    assert not fit_names(given, expected, target, "vit").keys() & expected.keys()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("layers.0.x.adapters.a.w", "layers.1.adapters.a.w", id="another layer"),
        pytest.param("layers.0.x.adapters.a.w", "layers.0.adapters.a.v", id="another leaf"),
        pytest.param("layers.0.x.adapters.a.w", "layers.0.y.adapters.a.w", id="another module"),
        pytest.param("layers.0.adapters.a.w", "layers.0.y.adapters.a.w", id="a module more"),
        pytest.param("layers.0.x.loras.a.w", "layers.0.adapters.a.w", id="another method"),
    ],
)
def test_noop(given: str, expected: str) -> None:
    tensors = {given: torch.zeros(1)}
    assert list(fit_names(tensors, [expected], model(ViTModel), "vit")) == [given]
