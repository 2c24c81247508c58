"""Bottlenecks by forward hooks: one remembers the residual stream, one changes the output of a projection.

A generated layer hands the residual and its norm to the host of the bottlenecks, and leaves the addition to it. Here the
layer goes on adding for itself, so that the host only changes the output of the sublayer.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer
from adapter_runtime.methods.bottleneck.program import BottleneckNode
from adapter_runtime.programs.layer import AdapterLayerBase


class _Residuals(threading.local):
    """The residual streams of the layer that is running in this thread."""

    def __init__(self) -> None:
        self.held: dict[str, torch.Tensor] = {}  # by location of the bottleneck; taken out by its hook


residuals = _Residuals()


class HookedBottleneckLayer(BottleneckLayer):
    """Adapters whose output the layer adds to the residual stream, and norms, by itself."""

    def resolve(self, block: AdapterCompositionBlock | None) -> BottleneckNode | None:
        """The program of `block`, without the layer's addition and norm after it."""
        return AdapterLayerBase.resolve(self, block)

    def bottleneck_layer_forward(
        self, x: torch.Tensor, residual: torch.Tensor | None, norm: Any = None
    ) -> torch.Tensor:
        """What takes the place of the sublayer's output.

        Args:
            x: [B, L, H], output of the sublayer.
            residual: [B, L, H], the residual stream before it; None where the interface does not say where it is.
            norm: applied by adapters to the sum of both, else None.
        """
        program = self.current_program()
        return x if program is None else program(x, residual, norm)


class ResidualHook:
    """Before a module that gets the residual stream: remember it for the bottlenecks of `host`."""

    def __init__(self, host: HookedBottleneckLayer) -> None:
        self.host = host

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.host.current_program() is None:
            return
        residuals.held[self.host.location_key] = args[0] if args else _first_tensor(kwargs)


class BottleneckHook:
    """After the last projection of a sublayer: run the bottlenecks of `host` on its output.

    Args:
        norm: the norm of this very layer that adapters apply; None = none.
        pre: the field of the interface that says where the residual is, and its path; None = not said.
    """

    def __init__(self, host: HookedBottleneckLayer, norm: nn.Module | None, pre: str | None) -> None:
        self.host = host
        self.norm = norm
        self.pre = pre

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self.host.current_program() is None:
            return None  # the output stays as it is
        residual = self._residual() if self.pre else None
        if isinstance(output, torch.Tensor):
            return self.host(output, residual, self.norm)
        return (self.host(output[0], residual, self.norm), *output[1:])

    def _residual(self) -> torch.Tensor:
        residual = residuals.held.pop(self.host.location_key, None)
        if residual is None:
            raise UnsupportedModelError(
                f"Layer {self.host.layer_index}: the module of {self.pre} did not run before the sublayer whose output "
                f"{self.host.location_key} adapts, or the sublayer ran more than once. Name a module that gets the residual "
                "stream once before it."
            )
        return residual


def _first_tensor(kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states among the arguments of a module that is called by name."""
    named = kwargs.get("hidden_states")
    return named if named is not None else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))
