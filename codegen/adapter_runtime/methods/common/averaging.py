"""Strategies of `average_adapter` beside "linear" (the mean of each parameter). A method lists its own in its `MethodSpec`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from adapter_runtime.contract.config import AdapterConfig

C = TypeVar("C", bound=AdapterConfig)


@dataclass(frozen=True)
class Averaging(Generic[C]):
    """A strategy of `average_adapter`."""

    name: str  # "lora_delta_w_svd"
    averages: str  # what, for messages: "updates of LoRA"
    applies: Callable[[C], bool]  # whether adapters with these options can be averaged so
    # The tensors of the new adapter at one place, by name. Arguments: the modules of the given adapters at this place, their
    # weights, and the config of the new adapter
    combined: Callable[[Sequence[nn.Module], Sequence[float], C], dict[str, torch.Tensor]]
    # The config of the new adapter. Arguments: that of the first one, and `svd_rank`. May raise InvalidConfigError
    config: Callable[[C, int | None], C] = lambda config, rank: config
    needs_rank: bool = False  # `svd_rank` must be given
    may_differ: frozenset[str] = frozenset()  # options in which the adapters need not agree


def weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum of tensors [...] of one shape, in a precision of at least fp32."""
    exact = [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
    return torch.stack([tensor * weight for tensor, weight in zip(exact, weights, strict=True)]).sum(dim=0)
