"""Which projections of a model an adapter of the LoRA family adapts, and creating it there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from torch import nn

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer
from adapter_runtime.contract.widths import out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.gates import check_gates, check_pieces, leave_sequences, watch_sequences
from adapter_runtime.methods.common.projections import Projection, groups_at, module_of, projections_of
from adapter_runtime.methods.common.shared_parameters import shared_parameters_of
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.gaps import keys_of, passed_over
from adapter_runtime.methods.lora.layer import LoRALayer, check_projection, disable_lora, enable_lora
from adapter_runtime.methods.lora.modules.base import Parts, ProjectionAdapter, ProjectionSite
from adapter_runtime.methods.lora.modules.factory import is_vera
from adapter_runtime.methods.lora.modules.vera import add_shared_matrices
from adapter_runtime.methods.lora.trial import try_modules
from adapter_runtime.methods.placing import Wish, layers_without, says

_BLOCKS = ("intermediate_lora", "gate_lora", "output_lora", "mixer_lora", "mixer_output_lora")
CONTAINERS = frozenset({"loras"})  # what holds the modules of adapters in a projection


class Placed(NamedTuple):
    """A projection that an adapter gets, and the spans of its output features that are adapted."""

    host: LoRALayer
    parts: Parts


def place(model: AdaptedBaseModel, name: str, config: LoRAConfig) -> int:
    """Create an adapter. Returns how many projections it adapts."""
    places = enabled_places(model, config)
    shared = None
    if places and is_vera(config):
        shared = shared_parameters_of(model).of(name)
        sites = [place.host.site(place.parts) for place in places]
        add_shared_matrices(shared, config, sites, like=places[0].host.weight)
    for host, parts in places:
        host.add_adapter(name, config, parts, shared)
    return _watched(model, config, places)


def wishes(model: AdaptedBaseModel, config: LoRAConfig) -> Collection[Wish]:
    """The matrices of attention and the projections of the feed-forward block that a config asks for."""
    layers = list(layers_without(model, config.leave_out))
    matrices = config.attn_matrices if config.selfattn_lora else ()
    blocks = [option for option in _BLOCKS if config[option]]
    found: dict[str, set[int]] = {}
    partly: dict[tuple[str, str], set[int]] = {}  # what is asked for, and the part of layers that lacks it
    for index, layer in layers:
        for projection in projections_of(layer):
            if layer.module_at(projection.path) is not None:
                for key in keys_of(projection):
                    found.setdefault(key, set()).add(index)
        for part, keys in passed_over(layer, [*matrices, *blocks]).items():
            for key in keys:
                partly.setdefault((key, part), set()).add(index)
    every = frozenset(index for index, _ in layers)

    def wish(key: str, shown: str, option: str) -> Wish:
        there = frozenset(found.get(key, ()))
        parts = {part: there & indices for (asked, part), indices in partly.items() if asked == key}
        return Wish(shown, says(config, option), there, every - there, parts)

    return [
        *(wish(matrix, f"{matrix!r} in attn_matrices", "attn_matrices") for matrix in matrices),
        *(wish(option, f"{option}=True", option) for option in blocks),
    ]


def place_each(
    model: AdaptedBaseModel,
    name: str,
    config: LoRAConfig,
    make: Callable[[LoRAConfig, ProjectionSite], ProjectionAdapter],
) -> int:
    """Create an adapter of which each projection has a module of its own. Returns how many projections it adapts."""
    places = enabled_places(model, config)
    for host, parts in places:
        host.hold(name, make(config, host.site(parts, name)))
    return _watched(model, config, places)


def _watched(model: AdaptedBaseModel, config: LoRAConfig, places: Sequence[Placed]) -> int:
    """How many projections an adapter adapts, whose gates now know how long sequences are."""
    if config.use_gating:
        watch_sequences(model, (host.layer_index for host, _ in places))
    return len(places)


def enabled_places(model: AdaptedBaseModel, config: LoRAConfig) -> Sequence[Placed]:
    """The projections that `config` asks for, each with room for adapters.

    Raises:
        UnsupportedMethodError: one of them cannot be adapted, or not in part.
    """
    return [
        Placed(
            enable_lora(
                module_of(layer, projection.path),
                index,
                key,
                fused=projection.fused is not None,
                groups=groups_at(layer, projection),
                is_turned=projection.path in layer.roles.turned,
                is_packed=projection.path in layer.roles.selected,
            ),
            parts,
        )
        for index, layer in layers_without(model, config.leave_out)
        for projection, key, parts in _wanted_projections(layer, config)
    ]


def count_places(model: AdaptedBaseModel, config: LoRAConfig) -> int:
    """How many projections `config` asks for.

    Raises:
        UnsupportedMethodError: one of them cannot be adapted, or not in part, or cannot have a gate.
    """
    wanted = _counted(model, config)
    try_modules(config, wanted)
    return len(wanted)


def count_each(model: AdaptedBaseModel, config: LoRAConfig) -> int:
    """`count_places` of a method whose modules only `place_each` makes: what they cannot do, only that finds out.

    Raises:
        UnsupportedMethodError: a projection cannot be adapted, or not in part, or cannot have a gate.
    """
    return len(_counted(model, config))


def _counted(model: AdaptedBaseModel, config: LoRAConfig) -> list[tuple[nn.Module, Parts]]:
    """The projections that `config` asks for, and the spans of their output features.

    Raises:
        UnsupportedMethodError: as `count_each`.
    """
    wanted = [
        (index, layer, projection, parts)
        for index, layer in layers_without(model, config.leave_out)
        for projection, _, parts in _wanted_projections(layer, config)
    ]
    if config.use_gating:
        check_gates(model, [index for index, _, _, _ in wanted])
        check_pieces(model, [(index, projection.location) for index, _, projection, _ in wanted])
        for index, layer, projection, _ in wanted:
            _check_gate(index, layer, projection)
    return [(module_of(layer, projection.path), parts) for _, layer, projection, parts in wanted]


def _check_gate(index: int, layer: AdaptedLayer, projection: Projection) -> None:
    """Raise where a projection does not get all positions of a row, of which a gate is the mean.

    Raises:
        UnsupportedMethodError: it does not.
    """
    if projection.path in layer.roles.selected:
        raise UnsupportedMethodError(
            f"A gate is the mean over a sequence, but {projection.path} of layer {index} gets some positions only, those of all rows in"
            f" one. Use use_gating=False, or leave the place out: {projection.location}=False."
        )


def _wanted_projections(layer: AdaptedLayer, config: LoRAConfig) -> Iterator[tuple[Projection, str, Parts]]:
    """The projections of a layer that `config` adapts, each with the name of its place and its adapted spans."""
    for projection in projections_of(layer):
        if config[projection.location] and layer.module_at(projection.path) is not None:
            parts = adapted_parts(layer, projection, config)
            if parts:
                yield projection, f"{projection.location}_{projection.matrix}".rstrip("_"), parts


def adapted_parts(layer: AdaptedLayer, projection: Projection, config: LoRAConfig) -> Parts:
    """The spans of output features of a projection that `config` adapts.

    Raises:
        UnsupportedMethodError: it gives several matrices that cannot be told apart.
    """
    module = module_of(layer, projection.path)
    given = "qkv" if projection.fused is not None else projection.matrix
    wanted = [matrix for matrix in given if matrix in config.attn_matrices]
    if given and not wanted:
        return []
    check_projection(module, projection.path)
    if projection.fused is None and len(wanted) == len(given):
        return [(0, out_width(module))]
    groups = groups_at(layer, projection)
    if groups is None:
        raise _unknown_order(projection)
    return [groups.spans[matrix] for matrix in wanted]


def _unknown_order(projection: Projection) -> UnsupportedMethodError:
    if projection.fused is not None:
        return UnsupportedMethodError(
            f"{projection.path} gives queries, keys and values in an order that is not known, so LoRA cannot adapt some of"
            " them. Choose other places: selfattn_lora=False, or attn_matrices=['o']."
        )
    if projection.matrix == "qg":
        return UnsupportedMethodError(
            f"{projection.path} gives queries, and gates of what they attend to, in an order that is not known, so LoRA cannot adapt"
            " one of them. Choose both or neither: attn_matrices=['q', 'g', 'v'] or ['v']."
        )
    return UnsupportedMethodError(
        f"{projection.path} gives keys and values together, so LoRA cannot adapt one of them. Choose both or neither:"
        " attn_matrices=['q', 'k', 'v'] or ['q']."
    )


def remove_empty(model: AdaptedBaseModel) -> None:
    """Give projections that hold no adapters their upstream classes back, and let layers without gates be."""
    for layer in list(model.adapter_layers()):
        if isinstance(layer, LoRALayer) and not layer.adapter_names():
            disable_lora(layer)
    leave_sequences(model)
