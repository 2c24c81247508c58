"""How several adapters of one place run together, beside one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Averaged:
    """All adapters read the same; the sum of their results counts, each by its share."""

    shares: tuple[float, ...]

    def of(self, results: Sequence[Tensor]) -> Tensor:
        """The weighted sum."""
        return torch.stack([share * result for share, result in zip(self.shares, results, strict=True)]).sum(0)


@dataclass(frozen=True)
class Fused:
    """An attention over the outputs of bottlenecks (https://arxiv.org/abs/2005.00247)."""

    name: str  # under which a checkpoint stores the attention


Together = Averaged | Fused | None  # None: one after the other


def only_in_turn(method: str, together: Together) -> None:
    """For methods of which nothing else is defined."""
    if together is not None:
        raise NotImplementedError(f"the reference knows no {type(together).__name__} of {method}")
