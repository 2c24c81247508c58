"""How long the sequences of a layer are, for what reads all positions of a row where upstream has put those of all rows into one dimension.

OPT's feed-forward block and the shared experts of many models get (batch * length, width). A layer itself is given (batch, length,
width): a hook on layers whose adapters need it notes these two, and `sequences_of` takes rows apart that are just as many.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import CallSlot, thread


class SequenceSlot(CallSlot):
    """What the layers of the current call were given last: index -> the two dimensions in front of the width."""

    def __init__(self) -> None:
        self.shapes: dict[int, tuple[int, int]] = {}


class NotesSequences:
    """Forward pre-hook of a layer.

    Args:
        layer_index: counted over all stacks of the model.
    """

    def __init__(self, layer_index: int) -> None:
        self.layer_index = layer_index

    def __call__(self, layer: nn.Module, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]) -> None:
        tensors = (given for given in (*args, *kwargs.values()) if isinstance(given, torch.Tensor))
        states = next((given for given in tensors if given.is_floating_point()), None)
        if thread.context is None:
            return
        shapes = thread.context.slot(SequenceSlot).shapes
        shapes.pop(self.layer_index, None)
        if states is not None and states.dim() == 3:
            shapes[self.layer_index] = (states.shape[0], states.shape[1])


def sequences_of(layer_index: int, rows: int) -> tuple[int, int] | None:
    """The dimensions in front of the width that a layer has in the place of one of `rows`; None where that is not all of its positions."""
    slot = thread.context.find(SequenceSlot) if thread.context is not None else None
    shape = slot.shapes.get(layer_index) if slot is not None else None
    return shape if shape is not None and shape[0] * shape[1] == rows else None
