"""Gradient checkpointing: the recomputation of a layer, in the backward pass, sees the context of its forward."""

from __future__ import annotations

from typing import Protocol

import torch

from adapter_runtime.call.arguments import Argument, LayerForward, LayerOutputs, hidden_states_of, with_hidden_states
from adapter_runtime.call.context import thread


class CheckpointFunction(Protocol):
    """`torch.utils.checkpoint.checkpoint` or something like it."""

    def __call__(self, function: LayerForward, *args: Argument, **kwargs: Argument) -> LayerOutputs: ...


class Reentry:
    """A function that runs in the setup and context in which it was wrapped, in whatever thread.

    Its first arguments are the tensors of the context's prefix states. A reentrant checkpoint runs a backward pass of its
    own for each layer, and this pass must end at the arguments: the graph that computed the states is shared by all layers.
    A reentrant checkpoint also computes no gradients for the parameters of a layer if none of its arguments needs one. In
    that case an empty tensor that requires a gradient, the anchor, is passed too: also beside prefix states that require
    one, as this layer may be one that reads none of them.
    """

    def __init__(self, function: LayerForward, args: tuple[Argument, ...]) -> None:
        self.function, self.setup, self.context = function, thread.setup, thread.context
        self.states = self.context.state_tensors() if self.context is not None else []
        needs_gradients = any(isinstance(entry, torch.Tensor) and entry.requires_grad for entry in args)
        self.anchors = [] if needs_gradients else [torch.empty(0, requires_grad=torch.is_grad_enabled())]
        self.is_done = False  # set by the first call; the second one recomputes the layer in the backward pass
        self.is_reentrant = False  # whether the first call ran without gradients, as a reentrant checkpoint does

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
    """The tensors among `args`."""
    return [entry for entry in args if isinstance(entry, torch.Tensor)]


def _anchored(outputs: LayerOutputs, anchor: torch.Tensor) -> LayerOutputs:
    """The outputs of a layer, made to depend on `anchor` if they require no gradient: a reentrant checkpoint needs one that does.

    Args:
        outputs: of the layer; hidden states [B, L, H] come first.
        anchor: [0], a tensor that requires a gradient; its sum, 0, is added to the hidden states.
    """
    first = hidden_states_of(outputs)
    return outputs if first.requires_grad else with_hidden_states(outputs, first + anchor.sum())


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
