"""Loading an adapter without what it has in some layers (`leave_out`), in some parts of a model made of several, or trained along."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping

import torch

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.common.along.copies import CONTAINER as TRAINED_ALONG
from adapter_runtime.methods.configs.union import ConfigUnion
from adapter_runtime.methods.table import specs_of


def without_layers(model: AdaptedModel, config: AdapterConfig, layers: frozenset[int]) -> AdapterConfig:
    """The config of the same adapter without the layers with these indices.

    Raises:
        InvalidConfigError: the model has no such layer.
        UnsupportedMethodError: the parameters of the method are not those of single layers.
    """
    if not layers:
        return config
    indices = [index for index, _ in model.iter_layers()]
    unknown = sorted(layers - set(indices))
    if unknown:
        raise InvalidConfigError(f"leave_out names the layers {unknown}, but the model has 0 to {indices[-1]}.")
    if isinstance(config, ConfigUnion):
        return ConfigUnion(*(_without(member, layers, indices) for member in config.configs))
    return _without(config, layers, indices)


def _without(config: AdapterConfig, layers: frozenset[int], indices: list[int]) -> AdapterConfig:
    """`config`, which is no union, without some layers, as its method says it.

    Args:
        indices: of all layers of the model.
    """
    found: AdapterConfig = specs_of(config)[0].without_layers(config, layers, indices)
    return found


def not_in_layers(
    model: AdaptedModel, tensors: Mapping[str, torch.Tensor], layers: frozenset[int]
) -> dict[str, torch.Tensor]:
    """The tensors that are not in the layers with these indices. The names are those of the model."""
    if not layers:
        return dict(tensors)
    left_out = {id(layer) for index, layer in model.iter_layers() if index in layers}
    paths = tuple(f"{path}." for path, module in model.named_modules() if id(module) in left_out)
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(paths)}


def parts_without(model: AdaptedModel, name: str) -> frozenset[str]:
    """The parts of a model, by their paths, in which an adapter has nothing."""
    return frozenset(
        path
        for path, part in model.adapters_base.adapter_parts().items()
        if not any(True for layer in part.adapter_layers() for _ in layer.modules_of(name))
    )


def not_in_parts(
    model: AdaptedModel, tensors: Mapping[str, torch.Tensor], parts: Collection[str]
) -> dict[str, torch.Tensor]:
    """The tensors that are not in these parts, which are told by their paths. The names are those of the model."""
    if not parts:
        return dict(tensors)
    base = model.adapters_base
    start = next(f"{path}." if path else "" for path, module in model.named_modules() if id(module) == id(base))
    known = sorted(base.adapter_parts(), key=len, reverse=True)  # a part in a part comes first
    return {key: tensor for key, tensor in tensors.items() if _part_of(key.removeprefix(start), known) not in parts}


def _part_of(key: str, parts: Collection[str]) -> str | None:
    return next((path for path in parts if not path or key.startswith(f"{path}.")), None)


def without_copies(tensors: Mapping[str, torch.Tensor], expected: Container[str]) -> dict[str, torch.Tensor]:
    """The tensors without copies of modules (`also_train`) that the model does not expect. The names are those of the model."""
    return {key: tensor for key, tensor in tensors.items() if key in expected or TRAINED_ALONG not in key.split(".")}
