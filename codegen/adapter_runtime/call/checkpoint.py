"""Gradient checkpointing: the recomputation of a layer, in the backward pass, sees the context of its forward."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from adapter_runtime.call.context import thread


class CheckpointFunction(Protocol):
    """`torch.utils.checkpoint.checkpoint` or something like it."""

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any: ...


class Reentry:
    """A function that runs in the setup and context in which it was wrapped, in whatever thread.

    Its first arguments are the tensors of the context's prefix states: a reentrant checkpoint runs a backward pass of its
    own for each layer, and may not go from there into the graph that the states came out of, which all layers share. Such
    a checkpoint also gives no gradients to the parameters of a layer where no argument needs one: then an empty tensor does.
    """

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        self.function, self.setup, self.context = function, thread.setup, thread.context
        self.states = self.context.state_tensors() if self.context is not None else []
        given = (*self.states, *args)
        needs_gradients = any(isinstance(entry, torch.Tensor) and entry.requires_grad for entry in given)
        self.anchors = [] if needs_gradients else [torch.empty(0, requires_grad=torch.is_grad_enabled())]
        self.is_done = False  # a second call computes the same again, in the backward pass
        self.is_reentrant = False  # the first one computes no gradients

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        count = len(self.states)
        own = count + len(self.anchors)
        setup, context = thread.setup, thread.context
        thread.setup = self.setup
        thread.context = self.context.with_states(args[:count]) if self.context is not None else None
        if self.is_done and thread.context is not None:
            thread.context = thread.context.without_recording()
        if not self.is_done:
            self.is_reentrant = not torch.is_grad_enabled()
        is_again, self.is_done = self.is_done, True
        try:
            outputs = self.function(*args[own:], **kwargs)
            return _anchored(outputs, args[own - 1]) if self.anchors and self.is_reentrant and is_again else outputs
        finally:
            thread.setup, thread.context = setup, context


def _anchored(outputs: Any, anchor: torch.Tensor) -> Any:
    """Outputs of a layer that trains nothing, as a reentrant checkpoint wants them: it goes back from them in any case."""
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    if first.requires_grad:
        return outputs
    needing = first + anchor.sum()
    return (needing, *outputs[1:]) if isinstance(outputs, tuple) else needing


class ContextualCheckpoint:
    """A checkpoint function whose recomputation, in the backward pass, sees the context of the forward pass."""

    def __init__(self, checkpoint: CheckpointFunction) -> None:
        self.checkpoint = checkpoint

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        reentry = Reentry(function, args)
        return self.checkpoint(reentry, *reentry.states, *reentry.anchors, *args, **kwargs)

    @classmethod
    def wrap(cls, checkpoint: CheckpointFunction) -> ContextualCheckpoint:
        return checkpoint if isinstance(checkpoint, cls) else cls(checkpoint)
