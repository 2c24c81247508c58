"""Where bottlenecks stand: the modules that the roles of a layer name, upstream's own or children that are created here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import nn

from adapter_runtime.contract.paths import expanded
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer
from adapter_runtime.contract.widths import summed_width
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer, BranchBottleneckLayer
from adapter_runtime.methods.bottleneck.module import Bottleneck, bottleneck_size
from adapter_runtime.methods.bottleneck.phm import share
from adapter_runtime.methods.common.gates import check_gates, check_pieces, watch_sequences
from adapter_runtime.methods.common.shared_parameters import SharedDict, shared_parameters_of
from adapter_runtime.methods.placing import Wish, check_layers, layers_without, says
from adapter_runtime.roles import BottleneckLocation, BottleneckRole, Joining

# The option that asks for bottlenecks at a location; it is also part of what `adapters` calls the place.
OPTIONS: dict[BottleneckLocation, str] = {
    "attention": "mh_adapter",
    "cross_attention": "cross_adapter",
    "output": "output_adapter",
}


def prepare_layer(layer: AdaptedLayer, index: int, self_location: str) -> None:
    """Give all places of a layer room for bottlenecks.

    Raises:
        UnsupportedModelError: a module that the roles name is not there, or is of another class.
    """
    for path, role in _host_paths(layer):
        host = _host(layer, path, role)
        if host is not None:
            host.init_adapter_layer(index, OPTIONS[role.location])


def _host_paths(layer: AdaptedLayer) -> Iterator[tuple[str, BottleneckRole]]:
    """The path and the role of each host of a layer, also of those in a list of blocks (MobileBERT's)."""
    for role in layer.roles.bottlenecks:
        for path in expanded(layer.get_submodule(""), role.host):
            if _is_reached(layer, path, role):
                yield path, role


def _is_reached(layer: AdaptedLayer, path: str, role: BottleneckRole) -> bool:
    """Whether the forward around a host comes to it, by what upstream's constructor was told, and `role` is its role there."""
    if role.sublayer and not _has_one_of(layer.module_at(role.sublayer), role.classes):
        return False
    if not role.where and not role.unless:
        return True
    around = layer.module_at(path.rpartition(".")[0])
    holds = around is not None and all(getattr(around, name) for name in role.where)
    return holds and not any(getattr(around, name) for name in role.unless)


def _has_one_of(module: nn.Module | None, classes: Collection[str]) -> bool:
    """Whether a module is of one of upstream's classes; its own class may be generated."""
    return any(known.__name__ in classes for known in type(module).__mro__)


def _host(layer: AdaptedLayer, path: str, role: BottleneckRole) -> BottleneckLayer | None:
    """The module that holds bottlenecks: one of upstream's, or a child, which is created here."""
    if role.location == "cross_attention" and not _has_cross_attention(layer):
        return None
    holder, _, name = path.rpartition(".")
    is_ours = name.rstrip("0123456789_").endswith("_adapters")
    found = layer.module_at(path, required=not is_ours)
    if found is None and is_ours and (parent := layer.module_at(holder)) is not None:
        found = created(role.joins)
        parent.add_module(name, found)
    if found is not None and not isinstance(found, BottleneckLayer):
        raise UnsupportedModelError(
            f"{type(layer).__name__}: {path} is a {type(found).__name__}, which no adapter class was generated for."
        )
    return found


def created(joins: Joining) -> BottleneckLayer:
    """A host for a place at which what it gives `joins` the stream in this way."""
    if not joins:
        return BottleneckLayer()
    host = BranchBottleneckLayer()
    host.has_residual = joins != "streams"
    return host


def _has_cross_attention(layer: AdaptedLayer) -> bool:
    stated = [roles for roles in layer.roles.attentions if roles.kind == "cross"]
    return not stated or any(layer.module_at(roles.core) is not None for roles in stated)


def is_claimed(module: nn.Module) -> bool | None:
    """Whether a layer has given this module room for bottlenecks; None where it is of no such class."""
    return "program" in vars(module) if isinstance(module, BottleneckLayer) else None


def bottleneck_layers(layer: AdaptedLayer) -> Iterator[BottleneckLayer]:
    """The places of bottlenecks in a layer."""
    for path, _ in _host_paths(layer):
        host = layer.module_at(path, required=False)
        if isinstance(host, BottleneckLayer):
            yield host


def width_at(host: BottleneckLayer, layer: AdaptedLayer) -> int:
    """Width of the hidden states at a place: within a layer they may be narrower (MobileBERT).

    Raises:
        UnsupportedMethodError: neither the place nor its layer tells it.
    """
    return summed_width(host) or layer.stream_width()


def are_asked_for(config: BnConfig) -> bool:
    """False for a config of invertible adapters alone, which models without a place for bottlenecks can have."""
    return config.inv_adapter is None or any(config[option] for option in OPTIONS.values())


def wishes(model: AdaptedBaseModel, config: BnConfig) -> Collection[Wish]:
    """The locations that a config asks for.

    Raises:
        InvalidConfigError: it has a reduction factor for a layer that is not there.
    """
    if isinstance(config.reduction_factor, Mapping):
        numbers = [int(key) for key in config.reduction_factor if key.isdigit()]
        check_layers(model, numbers, "reduction_factor")
    layers = list(layers_without(model, config.leave_out))
    every = frozenset(index for index, _ in layers)
    wishes = []
    for option in (option for option in OPTIONS.values() if config[option]):
        there = frozenset(
            index for index, layer in layers if any(host.location_key == option for host in bottleneck_layers(layer))
        )
        # Cross-attention is where the model has it, which is what is asked for.
        lacking = frozenset() if option == OPTIONS["cross_attention"] and there else every - there
        wishes.append(Wish(f"{option}=True", says(config, option), there, lacking))
    return wishes


def place(model: AdaptedBaseModel, name: str, config: BnConfig) -> int:
    """Create an adapter. Returns how many bottlenecks it has."""
    places = _wanted(model, config)
    shared = shared_parameters_of(model).of(name) if _shares_parameters(config) else None
    if shared is not None:
        for host, width in places:
            share(config, shared, width, bottleneck_size(config, width, host.layer_index), name)
    for host, width in places:
        host.add_adapter(name, config, width, shared)
    if config.use_gating:
        watch_sequences(model, (host.layer_index for host, _ in places))
    return len(places)


def _shares_parameters(config: BnConfig) -> bool:
    """Whether the layers of an adapter have parameters in common."""
    return config.phm_layer and (config.shared_phm_rule or config.shared_W_phm)


def count_places(model: AdaptedBaseModel, config: BnConfig) -> int:
    """How many bottlenecks an adapter has.

    Raises:
        UnsupportedMethodError: a layer does not tell how wide its hidden states are, or cannot have a gate.
        InvalidConfigError: an option does not fit these widths.
    """
    wanted = _wanted(model, config)
    if config.use_gating:
        check_gates(model, (host.layer_index for host, _ in wanted))
        check_pieces(model, ((host.layer_index, host.location_key) for host, _ in wanted))
    _try(config, wanted)
    return len(wanted)


def _try(config: BnConfig, places: Sequence[tuple[BottleneckLayer, int]]) -> None:
    """Build a bottleneck of each size, without memory.

    Raises:
        InvalidConfigError: an option does not fit a size.
    """
    sizes = {(width, bottleneck_size(config, width, host.layer_index)): host.layer_index for host, width in places}
    shared = SharedDict() if _shares_parameters(config) else None
    with torch.device("meta"):
        for (width, size), index in sizes.items():
            if shared is not None:
                share(config, shared, width, size)
            Bottleneck(config, width, index, shared)


def _wanted(model: AdaptedBaseModel, config: BnConfig) -> list[tuple[BottleneckLayer, int]]:
    """The places that `config` asks for, with the width of the hidden states there.

    Raises:
        UnsupportedMethodError: a layer does not tell that width, or upstream's addition is in the way of an option.
    """
    wanted = [
        (host, width_at(host, layer))
        for _, layer in layers_without(model, config.leave_out)
        for host in bottleneck_layers(layer)
        if config[host.location_key]
    ]
    for host, _ in wanted:
        if isinstance(host, BranchBottleneckLayer):
            host.check(config)
    return wanted
