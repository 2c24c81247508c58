"""Architectures of timm in configs: exchanged for small ones, with the widths that follow."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, CLIPConfig, PreTrainedConfig, TimmBackboneConfig, TimmWrapperConfig

from conformance import libraries
from conformance.instances import architectures, reach, search


@pytest.fixture(autouse=True)
def _timm() -> None:
    if why := libraries.missing(["timm"]):
        pytest.skip(why)


def wrapping(**fields: object) -> PreTrainedConfig:
    """A config with an architecture within it."""
    config = PreTrainedConfig()
    config.vision_config = TimmWrapperConfig(**fields)
    return config


def test_a_config_that_names_no_architecture_stays() -> None:
    assert not list(architectures.small(CLIPConfig()))
    assert not list(architectures.small(BertConfig(architecture="bert")))
    assert not architectures.named(BertConfig(backbone=None)), "it is left open whose"


def test_an_architecture_of_the_same_kind_is_first() -> None:
    first, *others = (changes["architecture",] for changes in architectures.small(TimmWrapperConfig()))
    assert first == "test_resnet"
    assert len(others) > 5
    assert sum(name.startswith("test_convnext") for name in others) == 1, "one of each class"


def test_an_architecture_that_is_left_open_is_given() -> None:
    assert architectures.named(TimmBackboneConfig()) == "backbone"


def test_all_maps_that_are_asked_for_are_all_that_there_are() -> None:
    config = wrapping(architecture="resnet50", model_args={"features_only": True, "out_indices": [0, 1, 2, 3]})
    config.channel_list = [1024, 512, 256, 64]
    config.other_channels, config.channels_of_a_decoder = [64, 256], [256, 256, 256, 256]
    first, *_ = architectures.small(config)
    assert first["vision_config", "architecture"] == "test_convnext", "it gives four; ResNets give five"
    assert first["channel_list",] == [64, 48, 32, 24]
    assert not {("other_channels",), ("channels_of_a_decoder",)} & set(first), "of two maps; of one width"


def test_arguments_of_another_architecture_are_left_out_and_its_own_given() -> None:
    config = wrapping(architecture="fastvit_t8", model_args={"inference_mode": True, "in_chans": 3}, hidden_size=768)
    by_name = {changes["vision_config", "architecture"]: changes for changes in architectures.small(config)}
    assert by_name["test_resnet"]["vision_config", "model_args"] == {"in_chans": 3}
    assert by_name["test_vit"]["vision_config", "model_args"] == {"in_chans": 3, "img_size": 64, "embed_dim": 64}
    assert by_name["test_vit"]["vision_config", "hidden_size"] == 64


def test_fields_that_are_arguments_of_the_architecture_alone_go_with_it() -> None:
    config = PreTrainedConfig()
    config.backbone_config = TimmBackboneConfig(
        backbone="swin_tiny_patch4_window7_224", always_partition=True, out_indices=[1, 2, 3], other=4
    )
    first, *_ = architectures.small(config)
    kept = first["backbone_config",]
    assert "always_partition" not in kept, "no ConvNeXt takes it"
    assert (kept["other"], kept["out_indices"]) == (4, [1, 2, 3])


def test_the_library_that_is_missing_is_the_one_that_upstream_names() -> None:
    text = "ImportError: TimmBackbone requires the timm library but it was not found in your environment."
    assert search.libraries_asked_for(text) == ("timm",)
    assert search.libraries_asked_for("ImportError: no module named timm") == ()


class _TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.image, self.gate = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)), nn.Identity()

    def forward(self, text: torch.Tensor, image: torch.Tensor | None = None) -> torch.Tensor:
        return self.text(text) if image is None else self.text(text) + self.image(image)


def test_a_tower_that_no_input_reaches_is_idle_and_what_has_no_weights_is_not() -> None:
    given = torch.ones(2)
    assert reach.idle(_TwoTowers(), {"text": given}) == {"image"}
    assert not reach.idle(_TwoTowers(), {"text": given, "image": given})
