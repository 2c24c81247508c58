"""What forwards of upstream's models are called with, and what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Cache, GenerationConfig
from transformers.utils import ModelOutput

# An argument of a forward, or of `generate`.
Argument: TypeAlias = (
    torch.Tensor
    | Cache
    | ModelOutput
    | GenerationConfig
    | str
    | float
    | Sequence["Argument"]
    | Mapping[str, "Argument"]
    | None
)

# What adapters computed beside their outputs: name of an adapter (or fusion) -> layer -> location -> array.
Arrays: TypeAlias = dict[str, dict[int, dict[str, NDArray[np.float32]]]]

# What a model gives: fields by name, or, with ``return_dict=False``, a tuple of them.
Outputs: TypeAlias = ModelOutput | tuple[Argument | Arrays, ...]

# What a layer gives: its hidden states [B, L, H], or a tuple (in some, a list) that begins with them.
LayerOutputs: TypeAlias = torch.Tensor | tuple[torch.Tensor, ...] | list[torch.Tensor]


def tokens_among(given: Mapping[str, Argument], prefix: str = "") -> torch.Tensor | None:
    """The tensor [B, L, ...] that stands for the tokens of a call: ids or embeddings; None where it has none.

    Args:
        prefix: of the names of the arguments: "decoder_" or "".
    """
    found = (given.get(f"{prefix}{name}") for name in ("input_ids", "inputs_embeds"))
    return next((tensor for tensor in found if isinstance(tensor, torch.Tensor)), None)


def hidden_states_of(outputs: LayerOutputs) -> torch.Tensor:
    """The hidden states [B, L, H] among what a layer gives."""
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def with_hidden_states(outputs: LayerOutputs, hidden_states: torch.Tensor) -> LayerOutputs:
    """What a layer gives, with other hidden states [B, L, H]."""
    if isinstance(outputs, list):
        return [hidden_states, *outputs[1:]]
    return (hidden_states, *outputs[1:]) if isinstance(outputs, tuple) else hidden_states


Model = TypeVar("Model", contravariant=True)


class ModelForward(Protocol[Model]):
    """The forward of a class of models, as a function."""

    def __call__(self, model: Model, /, *args: Argument, **kwargs: Argument) -> Outputs: ...


class Generate(Protocol):
    """The method ``generate`` of a model."""

    def __call__(self, *args: Argument, **kwargs: Argument) -> torch.Tensor | ModelOutput: ...


class LayerForward(Protocol):
    """The forward of a layer, bound to it."""

    def __call__(self, *args: Argument, **kwargs: Argument) -> LayerOutputs: ...
