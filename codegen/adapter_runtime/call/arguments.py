"""What forwards of upstream's models are called with, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

import torch
from torch import nn
from transformers import Cache
from transformers.utils import ModelOutput

# An argument of a forward, or of `generate`.
Argument: TypeAlias = (
    torch.Tensor | Cache | ModelOutput | str | float | Sequence["Argument"] | Mapping[str, "Argument"] | None
)

# What a model gives: fields by name, or, with ``return_dict=False``, a tuple of them.
Outputs: TypeAlias = ModelOutput | tuple[Argument, ...]

# What a layer gives: its hidden states [B, L, H], or a tuple that begins with them.
LayerOutputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...]


class ModelForward(Protocol):
    """The forward of a class of models, as a function."""

    def __call__(self, model: nn.Module, /, *args: Argument, **kwargs: Argument) -> Outputs: ...


class LayerForward(Protocol):
    """The forward of a layer, bound to it."""

    def __call__(self, *args: Argument, **kwargs: Argument) -> LayerOutputs: ...
