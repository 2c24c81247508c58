"""Paths of modules, and hosts of bottlenecks that stand deep in a layer."""

from __future__ import annotations

import pytest
from torch import nn

from adapter_runtime.contract.paths import expanded
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer
from adapter_runtime.methods.bottleneck.places import bottleneck_layers, prepare_layer
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import BottleneckRole, LayerRoles, LayerStack


class Host(BottleneckLayer):
    """A module of upstream's that a generated class made a host."""


class Layer(LayerAdaptersMixin, nn.Module):
    roles = LayerRoles(
        bottlenecks=(
            BottleneckRole("blocks.*.output", "output"),
            BottleneckRole("gate.residual_adapters", "attention"),
        ),
        optional=("blocks",),
    )

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.gate = nn.Module()
        if blocks:
            self.blocks = nn.ModuleList(nn.ModuleDict({"output": Host()}) for _ in range(blocks))


def test_a_star_is_every_element_of_a_list() -> None:
    assert expanded(Layer(2), "blocks.*.output") == ["blocks.0.output", "blocks.1.output"]
    assert expanded(Layer(2), "gate.residual_adapters") == ["gate.residual_adapters"]
    assert expanded(Layer(0), "blocks.*.output") == []


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_hosts_in_lists_and_in_modules_of_a_layer_get_room(blocks: int) -> None:
    layer = Layer(blocks)
    prepare_layer(layer, 0, "self")
    found = list(bottleneck_layers(layer))
    assert len(found) == blocks + 1
    assert layer.gate.residual_adapters is found[-1] and found[-1].location_key == "mh_adapter"


def test_a_module_without_its_holder_is_an_error() -> None:
    layer = Layer(1)
    del layer.gate
    with pytest.raises(UnsupportedModelError, match=r"no module 'gate'"):
        prepare_layer(layer, 0, "self")


def staged(*depths: int, in_some: bool = True, path: str = "stages.*.inner.layers") -> ModelBaseAdaptersMixin:
    """A model with a stage per number; of 0 layers: a stage that holds no list."""

    class Base(ModelBaseAdaptersMixin, nn.Module):
        layer_stacks = (LayerStack(path, in_some=in_some),)

    model = Base()
    model.stages = nn.ModuleList(nn.Module() for _ in depths)
    for stage, depth in zip(model.stages, depths, strict=True):
        if depth:
            stage.inner = nn.ModuleDict({"layers": nn.ModuleList(nn.Identity() for _ in range(depth))})
    return model


def test_stages_without_layers_are_passed_over_where_the_plan_says_so() -> None:
    model = staged(0, 2, 0, 1)
    first, last = model.stages[1].inner["layers"], model.stages[3].inner["layers"]
    assert list(model.iter_layers()) == [(0, first[0]), (1, first[1]), (2, last[0])]


@pytest.mark.parametrize(
    "model", [staged(0, 2, in_some=False), staged(0, 0), staged(1, 2, path="stages.*.outer.layers")]
)
def test_a_list_that_is_missing_is_an_error_all_the_same(model: ModelBaseAdaptersMixin) -> None:
    with pytest.raises(UnsupportedModelError, match="has no layers at"):
        list(model.iter_layers())


class Divided(LayerAdaptersMixin, nn.Module):
    roles = LayerRoles(
        bottlenecks=(
            BottleneckRole("attention_adapters", "attention"),
            BottleneckRole("attention_adapters_1", "attention", sublayer="dense", classes=("Linear",)),
        ),
        optional=("dense",),
    )


@pytest.mark.parametrize(("dense", "count"), [(nn.Linear(2, 2), 2), (nn.Identity(), 1), (None, 1)])
def test_a_place_that_needs_a_module_is_none_in_a_layer_without(dense: nn.Module | None, count: int) -> None:
    layer = Divided()
    layer.dense = dense
    prepare_layer(layer, 0, "self")
    assert len(list(bottleneck_layers(layer))) == count
    assert hasattr(layer, "attention_adapters_1") is (count == 2)


def test_a_place_that_needs_a_module_is_none_in_a_layer_that_never_had_it() -> None:
    layer = Divided()
    prepare_layer(layer, 0, "self")
    assert not hasattr(layer, "attention_adapters_1")


def test_a_list_of_lists_holds_the_layers_of_all() -> None:
    class Base(ModelBaseAdaptersMixin, nn.Module):
        layer_stacks = (LayerStack("encoder.blocks"), LayerStack("encoder.last"))

    model = Base()
    model.encoder = nn.Module()
    model.encoder.blocks = nn.ModuleList(nn.ModuleList(nn.Identity() for _ in range(count)) for count in (2, 1))
    model.encoder.last = nn.ModuleList([nn.Identity()])
    (first, second), (third,) = model.encoder.blocks
    assert [layer for _, layer in model.iter_layers()] == [first, second, third, model.encoder.last[0]]
