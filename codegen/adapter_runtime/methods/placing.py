"""Putting a new adapter into the layers of a model.

Where do I add a method?  A function ``place_...`` here, its line in `_PLACERS`, its modules in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import nn

from adapter_runtime.configuration import (
    AdapterConfig,
    BnConfig,
    ConfigUnion,
    LoRAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    ReftConfig,
)
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.layers.layer import LayerAdaptersMixin, Projection, out_width
from adapter_runtime.layers.lora import check_projection, enable_lora
from adapter_runtime.methods.lora import Parts, check_lora
from adapter_runtime.methods.prefix_tuning import PrefixTuning
from adapter_runtime.roles import AttentionRoles

if TYPE_CHECKING:
    from adapter_runtime.layers.prefix_tuning import PrefixTuningLayer
    from adapter_runtime.model_mixin import ModelBaseAdaptersMixin


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
        if isinstance(member, BnConfig):
            check_bottleneck(member)
        if isinstance(member, LoRAConfig):
            check_lora(member)


def check_bottleneck(config: BnConfig) -> None:
    """Raise for options of bottlenecks that are not built."""
    if config.phm_layer:
        raise UnsupportedMethodError(
            "Hypercomplex layers (compacter, phm_layer=True) are not supported yet. Use seq_bn or double_seq_bn."
        )
    if config.inv_adapter is not None:
        raise UnsupportedMethodError(
            f"Invertible adapters (inv_adapter={config.inv_adapter!r}) are not supported yet. Use inv_adapter=None."
        )


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
    return ((index, layer) for index, layer in model.adapted_layers() if index not in config["leave_out"])


def place_bottleneck(model: ModelBaseAdaptersMixin, name: str, config: BnConfig) -> int:
    """Returns how many adapters were made."""
    count = 0
    for _, layer in _layers(model, config):
        for host in layer.bottleneck_layers():
            if config[host.location_key]:
                host.add_adapter(name, config, layer.stream_width())
                count += 1
    return count


def place_lora(model: ModelBaseAdaptersMixin, name: str, config: LoRAConfig) -> int:
    """Returns how many projections were adapted."""
    count = 0
    for index, layer in _layers(model, config):
        for projection in layer.projections():
            if not config[projection.location]:
                continue
            module = layer.module_at(projection.path)
            if module is None:
                continue
            parts = _adapted_parts(layer, projection, config)
            if parts:
                key = f"{projection.location}_{projection.matrix}".rstrip("_")
                enable_lora(module, index, key, fused=projection.fused is not None).add_adapter(name, config, parts)
                count += 1
    return count


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
}
