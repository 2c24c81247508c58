"""Putting a new adapter into the layers of a model.

Where do I add a method?  A function ``place_...`` here, its line in `_PLACERS`, its modules in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import nn

from adapter_runtime.contract.config import AdapterConfig, left_out_layers
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.module import bottleneck_size
from adapter_runtime.methods.bottleneck.phm import share
from adapter_runtime.methods.invertible.layer import add_invertible, disable_invertible
from adapter_runtime.methods.lora.base import Parts
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.layer import check_projection, enable_lora
from adapter_runtime.methods.lora.making import check_lora, is_vera
from adapter_runtime.methods.lora.vera import add_shared_matrices
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prefix_tuning.module import PrefixTuning
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.prompt_tuning.module import (
    PromptTuning,
    initialise_prompt,
    prompt_width,
)
from adapter_runtime.methods.reft.config import ReftConfig
from adapter_runtime.methods.reft.layer import add_reft, disable_reft
from adapter_runtime.methods.union import ConfigUnion
from adapter_runtime.model.layer import LayerAdaptersMixin, Projection, out_width
from adapter_runtime.roles import AttentionRoles

if TYPE_CHECKING:
    from adapter_runtime.methods.prefix_tuning.layer import PrefixTuningLayer
    from adapter_runtime.model.base import ModelBaseAdaptersMixin


def members(config: AdapterConfig) -> tuple[AdapterConfig, ...]:
    """The configs in a union, or the config itself."""
    return config.configs if isinstance(config, ConfigUnion) else (config,)


def methods_of(config: AdapterConfig) -> set[str]:
    """The methods that a model must support for `config`, as named in the registry."""
    found: set[str] = set()
    for member in members(config):
        found |= {name for kind, name in _METHODS.items() if isinstance(member, kind)}
        if isinstance(member, BnConfig) and member.inv_adapter:
            found.add("invertible")
    return found


def check_built(config: AdapterConfig) -> None:
    """Raise where this library cannot run `config` on any model.

    Raises:
        UnsupportedMethodError: the method or an option of it is not built.
    """
    for member in members(config):
        if not any(isinstance(member, kind) for kind in _PLACERS):
            raise UnsupportedMethodError(
                f"{type(member).__name__} is not supported yet. Supported: bottleneck adapters, prefix tuning, lora, ia3."
            )
        if isinstance(member, LoRAConfig):
            check_lora(member)


def place(model: ModelBaseAdaptersMixin, name: str, config: AdapterConfig) -> None:
    """Create the adapter `name` in all layers where `config`, which was checked, wants it.

    Raises:
        UnsupportedMethodError: the model has no place that the method needs.
        InvalidConfigError: no layer would get anything.
    """
    for member in members(config):
        placer = next(placer for kind, placer in _PLACERS.items() if isinstance(member, kind))
        if placer(model, name, member) == 0:
            raise InvalidConfigError(f"No layer of {type(model).__name__} has a place for {member}.")


def _layers(model: ModelBaseAdaptersMixin, config: AdapterConfig) -> Iterator[tuple[int, LayerAdaptersMixin]]:
    left_out = left_out_layers(config)
    return ((index, layer) for index, layer in model.adapted_layers() if index not in left_out)


def place_bottleneck(model: ModelBaseAdaptersMixin, name: str, config: BnConfig) -> int:
    """Returns how many adapters were made."""
    places = [
        (host, layer.stream_width())
        for _, layer in _layers(model, config)
        for host in layer.bottleneck_layers()
        if config[host.location_key]
    ]
    shared = None
    if config.phm_layer and (config.shared_phm_rule or config.shared_W_phm):
        shared = model.shared_parameters.of(name)
        for host, width in places:
            share(config, shared, width, bottleneck_size(config, width, host.layer_index), name)
    for host, width in places:
        host.add_adapter(name, config, width, shared)
    if config.inv_adapter is not None:
        add_invertible(model, name, config)
    return len(places) + (config.inv_adapter is not None)


def place_lora(model: ModelBaseAdaptersMixin, name: str, config: LoRAConfig) -> int:
    """Returns how many projections were adapted."""
    places = [
        (enable_lora(layer.module_at(projection.path), index, key, fused=projection.fused is not None), parts)
        for index, layer in _layers(model, config)
        for projection, key, parts in _wanted_projections(layer, config)
    ]
    shared = None
    if places and is_vera(config):
        shared = model.shared_parameters.of(name)
        add_shared_matrices(shared, config, [host.site(parts) for host, parts in places], like=places[0][0].weight)
    for host, parts in places:
        host.add_adapter(name, config, parts, shared)
    return len(places)


def _wanted_projections(layer: LayerAdaptersMixin, config: LoRAConfig) -> Iterator[tuple[Projection, str, Parts]]:
    """The projections of a layer that `config` adapts, each with the name of its place and its adapted spans."""
    for projection in layer.adapted_projections():
        if config[projection.location] and layer.module_at(projection.path) is not None:
            parts = _adapted_parts(layer, projection, config)
            if parts:
                yield projection, f"{projection.location}_{projection.matrix}".rstrip("_"), parts


def _adapted_parts(layer: LayerAdaptersMixin, projection: Projection, config: LoRAConfig) -> Parts:
    """The spans of output features of a projection that `config` adapts."""
    module = layer.module_at(projection.path)
    if projection.location != "selfattn_lora" or projection.fused is None:
        wanted = [matrix in config.attn_matrices for matrix in projection.matrix]
        if any(wanted) and not all(wanted):
            raise UnsupportedMethodError(
                f"{projection.path} gives keys and values together, so LoRA cannot adapt one of them. Choose both or neither:"
                " attn_matrices=['q', 'k', 'v'] or ['q']."
            )
        if all(wanted):
            check_projection(module, projection.path)
        return [(0, out_width(module))] if all(wanted) else []
    spans = [span for matrix, span in layer.fused_spans(projection.fused).items() if matrix in config.attn_matrices]
    if spans:
        check_projection(module, projection.path)
    if spans and projection.fused.fused_layout != "concatenated":
        raise UnsupportedMethodError(
            f"{projection.path} gives queries, keys and values in an order that is not known, so LoRA cannot adapt some of"
            " them. Choose other places: selfattn_lora=False, or attn_matrices=['o']."
        )
    return spans


def place_prefix(model: ModelBaseAdaptersMixin, name: str, config: PrefixTuningConfig) -> int:
    """Returns how many attentions got a prefix."""
    wanted = {"self_prefix": True, "encoder_prefix": config.encoder_prefix, "cross_prefix": config.cross_prefix}
    places: dict[str, list[tuple[LayerAdaptersMixin, AttentionRoles, PrefixTuningLayer]]] = {}
    for _, layer in _layers(model, config):
        for roles, host in layer.prefix_layers():
            if wanted[host.location_key]:
                places.setdefault(host.location_key, []).append((layer, roles, host))
    if places:
        group = model.prefix_tuning.prefix_tunings[name] = nn.ModuleDict()
    for location, found in places.items():
        width = found[0][0].stream_width()
        shapes = [layer.prefix_shape(roles) for layer, roles, _ in found]
        tuning = PrefixTuning(config, width, shapes, key=f"{name}.{location}")
        group[location] = tuning
        for position, (_, _, host) in enumerate(found):
            host.place(name, tuning, position, width)
    return sum(map(len, places.values()))


def place_prompt(model: ModelBaseAdaptersMixin, name: str, config: PromptTuningConfig) -> int:
    """Returns 1: a prompt enters a model at one place."""
    tuning = PromptTuning(config, prompt_width(model, config))
    initialise_prompt(tuning, model)
    model.prompt_tuning.add_adapter(name, tuning, model)
    return 1


def place_reft(model: ModelBaseAdaptersMixin, name: str, config: ReftConfig) -> int:
    """Returns how many layers are edited."""
    layers = list(model.adapted_layers())
    if not isinstance(config.layers, str):
        unknown = sorted(set(config.layers) - {index for index, _ in layers})
        if unknown:
            raise InvalidConfigError(f"ReFT in layers {unknown}: the model has layers 0 to {layers[-1][0]}.")
    encoder = model.get_encoder() if model.config.is_encoder_decoder else None
    inside = set() if encoder is None else set(encoder.modules())
    wanted = [(index, layer) for index, layer in layers if config.is_in(index)]
    for index, layer in wanted:
        add_reft(layer, index, "encoder" if layer in inside else "self", name, config, layer.stream_width())
    return len(wanted)


def remove_empty_places(model: ModelBaseAdaptersMixin) -> None:
    """Take away what was created for adapters and holds none any more."""
    for _, layer in model.iter_layers():
        disable_reft(layer)
    disable_invertible(model)
    model.prompt_tuning.leave_if_empty(model)


_METHODS: dict[type[AdapterConfig], str] = {
    BnConfig: "bottleneck",
    LoRAConfig: "lora",
    PrefixTuningConfig: "prefix_tuning",
    PromptTuningConfig: "prompt_tuning",
    ReftConfig: "reft",
}
_PLACERS: dict[type[AdapterConfig], Callable[..., int]] = {
    BnConfig: place_bottleneck,
    LoRAConfig: place_lora,
    PrefixTuningConfig: place_prefix,
    PromptTuningConfig: place_prompt,
    ReftConfig: place_reft,
}
