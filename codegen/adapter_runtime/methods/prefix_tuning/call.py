"""What prefixes keep in a call: their states for the rows of the call, and the masks that grew."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch

from adapter_runtime.call.context import CallSlot


class LayerPrefix(NamedTuple):
    """The prefix of one attention: keys and values [heads, P, width], or [B, heads, P, width] for rows of a batch."""

    key: torch.Tensor
    value: torch.Tensor


class GrownMask(NamedTuple):
    """An attention mask of a call, and the mask with columns for the prefixes that was made of it."""

    mask: torch.Tensor | None
    layout: tuple[
        Hashable, ...
    ]  # of the prefixes; the numbers of queries and keys; whether it had to be made; its type
    grown: torch.Tensor

    def answers(self, mask: torch.Tensor | None, layout: tuple[Hashable, ...], device: torch.device) -> bool:
        """Whether `grown` is what `mask` [..., Q, K] needs to become on `device`: layers may lie on several."""
        return self.mask is mask and self.layout == layout and self.grown.device == device


class PrefixSlot(CallSlot):
    """The prefixes of the current call."""

    def __init__(self) -> None:
        # By `PrefixTuning.key` and whether gradients were on: of all attentions, [B, heads, P, width]
        self.batched: dict[tuple[str, bool], list[LayerPrefix]] = {}
        self.grown_masks: list[GrownMask] = []  # the last ones

    def recomputed(self) -> None:
        """None: prefixes and masks were made of other tensors than the layer now gets."""
