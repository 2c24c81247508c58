"""Whether the modules of an adapter can be made for all its projections: they are, without memory, before a model is touched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_runtime.contract.widths import in_width, out_width
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import Parts, ProjectionSite
from adapter_runtime.methods.lora.modules.factory import is_vera, make_adapter
from adapter_runtime.methods.lora.modules.vera import add_shared_matrices


class _Shape(NamedTuple):
    """What of a projection decides whether a module can be made for it. It stands for the projection itself."""

    inputs: int
    outputs: int
    parts: tuple[tuple[int, int], ...]
    stored: tuple[int, ...]  # of the weight [P, I], but that of a quantised one
    dtype: torch.dtype

    def own_weight(self, without_merged: bool = False) -> torch.Tensor:
        return torch.empty(self.stored, dtype=self.dtype, device="meta")

    def own_bias(self) -> torch.Tensor | None:
        return None

    def site(self) -> ProjectionSite:
        return ProjectionSite(self, self.inputs, self.outputs, self.parts)


def try_modules(config: LoRAConfig, projections: Iterable[tuple[nn.Module, Parts]]) -> None:
    """Make a module for each kind of projection, and forget it.

    Args:
        projections: those that `config` adapts, with the spans of output features that it adapts there.

    Raises:
        UnsupportedMethodError: one of them cannot be adapted with these options.
    """
    shapes = list(dict.fromkeys(_shape(module, parts) for module, parts in projections))
    shared = None
    with torch.device("meta"):
        if shapes and is_vera(config):
            shared = SharedDict()
            add_shared_matrices(shared, config, [shape.site() for shape in shapes], like=shapes[0].own_weight())
        for shape in shapes:
            make_adapter(config, shape.site(), shared)


def _shape(module: nn.Module, parts: Parts) -> _Shape:
    weight = module.get_parameter("weight")
    stored = tuple(weight.shape)
    is_turned = isinstance(module, Conv1D)
    return _Shape(
        in_width(module), out_width(module), tuple(parts), stored[::-1] if is_turned else stored, weight.dtype
    )
