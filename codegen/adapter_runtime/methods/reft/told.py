"""Which positions are real, as upstream tells a layer itself.

A model of sounds makes fewer positions of what it is called with, and shortens its mask of samples or frames accordingly. The
layers are given that shorter mask, which has a column for each position that they see.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument

_NAME = "attention_mask"
_HIDDEN = -1e3  # what is added to the scores of hidden keys is less; a bias of positions is not


class Told(NamedTuple):
    """What a call of a layer says about padding."""

    mask: Argument = None
    is_named: bool = False  # it gives a mask, if only None: then upstream attends to all positions


UNTOLD = Told()


def place_of_mask(layer: nn.Module) -> int:
    """The index of the mask among the arguments of a layer; -1 where it takes none."""
    names = list(inspect.signature(type(layer).forward).parameters)
    return names.index(_NAME) - 1 if _NAME in names else -1


def told_by(args: tuple[Argument, ...], kwargs: Mapping[str, Argument], place: int) -> Told:
    """What a call with these arguments says, in which a mask stands at `place` if it has no name."""
    if _NAME in kwargs:
        return Told(kwargs[_NAME], True)
    return Told(args[place], True) if 0 <= place < len(args) else UNTOLD


def real_positions(told: Told, rows: int, length: int) -> torch.Tensor | None:
    """[B, L], True at real positions; None where what a layer is told is of something else, or is no mask.

    Args:
        told: with a mask [B, L], or [B or 1, heads or 1, L or 1, L] of what each position attends to.
        rows: B.
        length: L.
    """
    mask = told.mask
    if not isinstance(mask, torch.Tensor):
        return None
    if mask.dim() == 2 and mask.shape == (rows, length):
        return _some_in_each(mask if mask.dtype is torch.bool else _attended(mask))
    is_of_pairs = mask.dim() == 4 and mask.shape[0] in (1, rows) and mask.shape[2] in (1, length)
    if not is_of_pairs or mask.shape[3] != length:
        return None
    seen = _attended(mask[:, 0]).any(dim=1)  # a key that no position attends to is padding
    return _some_in_each(seen).expand(rows, -1)


def _some_in_each(real: torch.Tensor) -> torch.Tensor:
    """[B, L] with all positions of a row real that has none else: such a mask marks what is hidden, and nothing is (Mask2Former)."""
    return real | ~real.any(dim=1, keepdim=True)


def _attended(mask: torch.Tensor) -> torch.Tensor:
    """True where a mask of whatever type lets attend: one that scores are multiplied by has nothing but 0 and 1, and some 1."""
    if not mask.is_floating_point():
        return mask.bool()
    is_factor = ((mask == 0) | (mask == 1)).all() & (mask == 1).any()
    return torch.where(is_factor, mask > 0, mask > _HIDDEN)
