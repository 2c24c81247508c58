"""Which tensors belong to which adapter, and under which names they are written.

A tensor of adapter N is called ``<place>.<container>.N.<leaf>``: "bert.encoder.layer.0.output.adapters.N.adapter_up.weight".
Names are compared segment by segment, so "lora" is not found in "my_loras.N" and "n" not in "n2".
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import pairwise

import torch

from adapter_runtime.methods.table import CONTAINERS

# The module dict that holds fusions of adapters, by the name of the fusion.
FUSION_CONTAINER = "adapter_fusion_layer"

# `adapters` writes the prefixes of a model once at the model and again below each attention layer.
_ALIAS = ("prefix_tuning", "pool", "prefix_tunings")


def owner(key: str) -> str | None:
    """The adapter that a tensor belongs to; None for one that belongs to no adapter."""
    for container, name in pairwise(key.split(".")[:-1]):
        if container in CONTAINERS:
            return name
    return None


def fusion_owner(key: str) -> str | None:
    """The fusion that a tensor belongs to; None for one that belongs to no fusion."""
    for container, name in pairwise(key.split(".")[:-1]):
        if container == FUSION_CONTAINER:
            return name
    return None


def is_alias(key: str) -> bool:
    """Whether the tensor is a further copy of one that is written elsewhere."""
    segments = tuple(key.split("."))
    return any(segments[start : start + len(_ALIAS)] == _ALIAS for start in range(len(segments)))


def of_adapter(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors of adapter `name`, without copies."""
    return {key: tensor for key, tensor in tensors.items() if owner(key) == name and not is_alias(key)}


def of_fusion(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors of the fusion `name`. `adapters` also writes those of fusions whose names begin alike."""
    return {key: tensor for key, tensor in tensors.items() if fusion_owner(key) == name}


def renamed(
    tensors: Mapping[str, torch.Tensor], old: str, new: str, containers: Container[str] = CONTAINERS
) -> dict[str, torch.Tensor]:
    """The tensors of adapter `old`, with the keys that they have in an adapter named `new`.

    Args:
        containers: module dicts that hold modules by the name to replace: those of adapters, or `FUSION_CONTAINER` alone.
    """
    if old == new:
        return dict(tensors)
    result = {}
    for key, tensor in tensors.items():
        segments = key.split(".")
        for position in range(1, len(segments)):
            if segments[position] == old and segments[position - 1] in containers:
                segments[position] = new
                break
        result[".".join(segments)] = tensor
    return result
