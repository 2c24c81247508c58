"""Gradient checkpointing: the recomputation of a layer, in the backward pass, sees the context of its forward."""

from __future__ import annotations

from typing import Protocol

import torch

from adapter_runtime.call.arguments import Argument, LayerForward, LayerOutputs
from adapter_runtime.call.context import thread


class CheckpointFunction(Protocol):
    """`torch.utils.checkpoint.checkpoint` or something like it."""

    def __call__(self, function: LayerForward, *args: Argument, **kwargs: Argument) -> LayerOutputs: ...


class Reentry:
    """A function that runs in the setup and context in which it was wrapped, in whatever thread.

    Its first arguments are the tensors of the context's prefix states. A reentrant checkpoint runs a backward pass of its
    own for each layer, and this pass must end at the arguments: the graph that the states came out of is that of all layers.
    A reentrant checkpoint also computes no gradients for the parameters of a layer if none of its arguments needs one. Then
    an empty tensor that does, the anchor, is handed on too.
    """

    def __init__(self, function: LayerForward, args: tuple[Argument, ...]) -> None:
        self.function, self.setup, self.context = function, thread.setup, thread.context
        self.states = self.context.state_tensors() if self.context is not None else []
        given = (*self.states, *args)
        needs_gradients = any(isinstance(entry, torch.Tensor) and entry.requires_grad for entry in given)
        self.anchors = [] if needs_gradients else [torch.empty(0, requires_grad=torch.is_grad_enabled())]
        self.is_done = False  # a second call computes the same again, in the backward pass
        self.is_reentrant = False  # the first one computes no gradients

    def __call__(self, *args: Argument, **kwargs: Argument) -> LayerOutputs:
        count = len(self.states)
        own = count + len(self.anchors)
        setup, context = thread.setup, thread.context
        thread.setup = self.setup
        thread.context = self.context.with_states(_tensors(args[:count])) if self.context is not None else None
        if self.is_done and thread.context is not None:
            thread.context = thread.context.without_recording()
        if not self.is_done:
            self.is_reentrant = not torch.is_grad_enabled()
        is_again, self.is_done = self.is_done, True
        try:
            outputs = self.function(*args[own:], **kwargs)
            is_anchored = bool(self.anchors) and self.is_reentrant and is_again
            return _anchored(outputs, *_tensors(args[count:own])) if is_anchored else outputs
        finally:
            thread.setup, thread.context = setup, context


def _tensors(args: tuple[Argument, ...]) -> list[torch.Tensor]:
    """Arguments that are tensors, with their type."""
    return [entry for entry in args if isinstance(entry, torch.Tensor)]


def _anchored(outputs: LayerOutputs, anchor: torch.Tensor) -> LayerOutputs:
    """Outputs of a layer that trains nothing, for a reentrant checkpoint, whose backward pass needs one with a gradient.

    Args:
        outputs: of the layer.
        anchor: [0], a tensor that needs a gradient; its sum, 0, is added to the hidden states.
    """
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    if first.requires_grad:
        return outputs
    needing = first + anchor.sum()
    return (needing, *outputs[1:]) if isinstance(outputs, tuple) else needing


class ContextualCheckpoint:
    """A checkpoint function whose recomputation, in the backward pass, sees the context of the forward pass."""

    def __init__(self, checkpoint: CheckpointFunction) -> None:
        self.checkpoint = checkpoint

    def __call__(self, function: LayerForward, *args: Argument, **kwargs: Argument) -> LayerOutputs:
        reentry = Reentry(function, args)
        return self.checkpoint(reentry, *reentry.states, *reentry.anchors, *args, **kwargs)

    @classmethod
    def wrap(cls, checkpoint: CheckpointFunction) -> ContextualCheckpoint:
        return checkpoint if isinstance(checkpoint, cls) else cls(checkpoint)
