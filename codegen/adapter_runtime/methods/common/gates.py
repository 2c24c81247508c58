"""Gates: how much of what an adapter gives is used, decided by what it reads (https://arxiv.org/abs/2110.07577)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from adapter_runtime.call.context import Place
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import UnsupportedMethodError


def mean_gate(logits: torch.Tensor) -> torch.Tensor:
    """[B, L, G] -> [B, 1, G]: one gate per sample, averaged over the sequence."""
    return torch.sigmoid(logits).mean(dim=tuple(range(1, logits.dim() - 1)), keepdim=True)


def check_gates(model: AdaptedBaseModel, layers: Iterable[int]) -> None:
    """Raise where adapters of some layers cannot have gates: the mean over a row that holds all examples would be one gate for all.

    Raises:
        UnsupportedMethodError: one of the layers is in a list that may be called with such rows.
    """
    packed = model.layers_of_form("packed").intersection(layers)
    if packed:
        raise UnsupportedMethodError(
            f"A gate is the mean over a sequence, but layers of {type(model.get_submodule('')).__name__} get the positions of all rows in"
            f" one. Use use_gating=False, or leave them out: leave_out={sorted(packed)}, or parts in a model made of several."
        )


def refuse_without_sequence(states: torch.Tensor, place: Place) -> None:
    """Raise where what a gate reads has no dimension for the sequence: [tokens, H] in place of [B, L, H].

    Raises:
        UnsupportedMethodError: it has none.
    """
    if states.dim() < 3:
        raise UnsupportedMethodError(
            f"A gate is the mean over a sequence, but {place.location} of layer {place.layer} gets all tokens of a batch in one row."
            " Use use_gating=False, or leave the place out."
        )
