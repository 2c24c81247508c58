"""Bottlenecks by forward hooks: one remembers the residual stream, one changes the output of a projection.

A generated layer hands the residual and its norm to the host of the bottlenecks, and leaves the addition to it. Here the
layer goes on adding for itself, so that the host only changes the output of the sublayer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument, LayerOutputs
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.methods.bottleneck.layer import BranchBottleneckLayer


class _Residuals(threading.local):
    """The residual streams of the layer that is running in this thread."""

    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}  # by location of the bottleneck; taken out by its hook


residuals = _Residuals()


class ResidualHook:
    """Before a module that gets the residual stream: remember it for the bottlenecks of `host`."""

    def __init__(self, host: BranchBottleneckLayer) -> None:
        self.host = host

    def __call__(self, module: nn.Module, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]) -> None:
        if self.host.current_program() is None:
            return
        residuals.held[self.host.location_key] = _hidden_states(args, kwargs)


class BottleneckHook:
    """After the last projection of a sublayer: run the bottlenecks of `host` on its output.

    Args:
        norm: the norm of this very layer that adapters apply; None = none.
        pre: the field of the interface that says where the residual is, and its path; None = not said.
    """

    def __init__(self, host: BranchBottleneckLayer, norm: nn.Module | None, pre: str | None) -> None:
        self.host = host
        self.norm = norm
        self.pre = pre

    def __call__(self, module: nn.Module, args: tuple[Argument, ...], output: LayerOutputs) -> LayerOutputs | None:
        if self.host.current_program() is None:
            return None  # the output stays as it is
        residual = self._residual() if self.pre else None
        states = output if isinstance(output, torch.Tensor) else output[0]
        changed: torch.Tensor = self.host(states, residual, self.norm)
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    def _residual(self) -> torch.Tensor:
        residual = residuals.held.pop(self.host.location_key, None)
        if residual is None:
            raise UnsupportedModelError(
                f"Layer {self.host.layer_index}: the module of {self.pre} did not run before the sublayer whose output "
                f"{self.host.location_key} adapts, or the sublayer ran more than once. Name a module that gets the residual "
                "stream once before it."
            )
        return residual


def _hidden_states(args: tuple[Argument, ...], kwargs: Mapping[str, Argument]) -> torch.Tensor:
    """The hidden states [B, L, H] among the arguments of a module: the first, that of their name, or the first tensor."""
    candidates = (*args[:1], kwargs.get("hidden_states"), *kwargs.values())
    return next(value for value in candidates if isinstance(value, torch.Tensor))
