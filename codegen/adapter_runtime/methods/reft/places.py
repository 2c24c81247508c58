"""Which layers an adapter of ReFT edits, and creating it there."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer
from adapter_runtime.methods.placing import check_layers
from adapter_runtime.methods.reft.config import ReftConfig
from adapter_runtime.methods.reft.layer import add_reft, disable_reft


def place(model: AdaptedBaseModel, name: str, config: ReftConfig) -> int:
    """Create an adapter. Returns how many layers it edits.

    Raises:
        InvalidConfigError: the config names layers that the model does not have.
    """
    encoder = model.get_encoder() if model.config.is_encoder_decoder else None
    inside = set() if encoder is None else set(encoder.modules())
    wanted = _wanted(model, config)
    for index, layer in wanted:
        module = layer.get_submodule("")
        add_reft(module, index, "encoder" if module in inside else "self", name, config, layer.stream_width())
    return len(wanted)


def count_places(model: AdaptedBaseModel, config: ReftConfig) -> int:
    """How many layers an adapter edits.

    Raises:
        InvalidConfigError: the config names layers that the model does not have.
        UnsupportedMethodError: a layer does not tell how wide its hidden states are.
    """
    return len([layer.stream_width() for _, layer in _wanted(model, config)])


def _wanted(model: AdaptedBaseModel, config: ReftConfig) -> list[tuple[int, AdaptedLayer]]:
    layers = list(model.adapted_layers())
    if not isinstance(config.layers, str):
        check_layers(model, config.layers, "layers")
    return [(index, layer) for index, layer in layers if config.is_in(index)]


def remove_empty(model: AdaptedBaseModel) -> None:
    """Remove hooks and containers from layers whose last ReFT adapter was deleted."""
    for _, layer in model.iter_layers():
        disable_reft(layer)


def without_layers(config: ReftConfig, layers: frozenset[int], every_layer: Sequence[int]) -> ReftConfig:
    """`config` without edits in `layers`."""
    kept = every_layer if isinstance(config.layers, str) else config.layers
    return config.replace(layers=[index for index in kept if index not in layers])
