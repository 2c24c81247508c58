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
