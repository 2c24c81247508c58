"""Weights of a head as the weighted sum of those of other heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from adapter_runtime.composition import Average
from adapter_runtime.heads.base import PredictionHead


def averaged(
    heads: Sequence[PredictionHead], weights: Sequence[float] | None, normalize_weights: bool
) -> dict[str, torch.Tensor]:
    """The state dict of the mean of `heads`.

    Args:
        heads: of one class, with the same layers.
        weights: one for each; None = equal ones.
        normalize_weights: divide the weights by their sum.

    Raises:
        ValueError: they differ in class or config (dropout aside), or the weights make no sense.
    """
    if not heads:
        raise ValueError("There are no heads to average.")
    first = heads[0]
    for other in heads[1:]:
        differing = _difference(first, other)
        if differing:
            raise ValueError(
                f"Heads {first.name!r} and {other.name!r} cannot be averaged: they differ in {differing}."
            )
    factors = Average(*(head.name for head in heads), weights=weights, normalize_weights=normalize_weights).weights
    states = [head.state_dict() for head in heads]
    return {
        key: torch.stack([factor * state[key] for factor, state in zip(factors, states, strict=True)]).sum(dim=0)
        for key in states[0]
    }


def _difference(first: PredictionHead, other: PredictionHead) -> str:
    """In what two heads differ besides weights and dropout, in words; "" where in nothing."""
    if type(first) is not type(other):
        return f"their class ({type(first).__name__}, {type(other).__name__})"
    keys = sorted((first.config.keys() | other.config.keys()) - {"dropout_prob"})
    return ", ".join(key for key in keys if first.config.get(key) != other.config.get(key))
