"""Bottlenecks under a flag: a layer has the place where its constructor lets the forward reach it."""

from __future__ import annotations

import pytest
from torch import nn

from adapter_runtime.methods.bottleneck.places import bottleneck_layers, prepare_layer
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import BottleneckRole, LayerRoles


class Part(nn.Module):
    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first


class Layer(LayerAdaptersMixin, nn.Module):
    roles = LayerRoles(
        bottlenecks=(
            BottleneckRole(host="attention_adapters", location="attention", where=("mixes",)),
            BottleneckRole(host="part.residual_adapters", location="output", unless=("is_first",)),
            BottleneckRole(host="output_adapters", location="output"),
        )
    )

    def __init__(self, mixes: bool, is_first: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.part = Part(is_first)


@pytest.mark.parametrize("mixes", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_place_is_where_the_module_around_it_says(mixes: bool, is_first: bool) -> None:
    layer = Layer(mixes, is_first)
    prepare_layer(layer, 0, "self")
    found = {name for name, module in layer.named_modules() if module in set(bottleneck_layers(layer))}
    expected = {"output_adapters"} | ({"attention_adapters"} if mixes else set())
    assert found == expected | (set() if is_first else {"part.residual_adapters"})
    assert hasattr(layer, "attention_adapters") == mixes
    assert hasattr(layer.part, "residual_adapters") != is_first


class Block(nn.Module):
    pass


class BlockWithAdapters(Block):
    pass


class Split(LayerAdaptersMixin, nn.Module):
    roles = LayerRoles(
        bottlenecks=(
            BottleneckRole("residual_adapters", "attention", sublayer="mixer", classes=("Linear", "Conv1d")),
            BottleneckRole("residual_adapters", "output", sublayer="mixer", classes=("Block",)),
        ),
        optional=("mixer.up",),
    )

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer


@pytest.mark.parametrize(
    ("mixer", "location"),
    [
        pytest.param(nn.Linear(2, 2), "mh_adapter", id="it attends"),
        pytest.param(Block(), "output_adapter", id="it is a feed-forward block"),
        pytest.param(BlockWithAdapters(), "output_adapter", id="it has a generated class"),
    ],
)
def test_one_host_has_the_role_of_the_class_that_stands_before_it(mixer: nn.Module, location: str) -> None:
    layer = Split(mixer)
    prepare_layer(layer, 0, "self")
    assert [host.location_key for host in bottleneck_layers(layer)] == [location]


def test_without_a_class_that_is_known_there_is_no_place() -> None:
    layer = Split(nn.Identity())
    prepare_layer(layer, 0, "self")
    assert list(bottleneck_layers(layer)) == [] and not hasattr(layer, "residual_adapters")


def test_an_identity_in_the_place_of_an_optional_projection_is_none() -> None:
    block = Block()
    block.up = nn.Identity()
    assert Split(block).module_at("mixer.up") is None
    assert Split(block).module_at("mixer") is block
