"""Gates: how much of what an adapter gives is used, decided by what it reads (https://arxiv.org/abs/2110.07577)."""

from __future__ import annotations

import torch


def mean_gate(logits: torch.Tensor) -> torch.Tensor:
    """[B, L, G] -> [B, 1, G]: one gate per sample, averaged over the sequence."""
    return torch.sigmoid(logits).mean(dim=tuple(range(1, logits.dim() - 1)), keepdim=True)
