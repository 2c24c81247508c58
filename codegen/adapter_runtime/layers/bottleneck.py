"""Modules that hold bottleneck adapters: children that we create, or upstream's own output modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from adapter_runtime.configuration import BnConfig
from adapter_runtime.context import thread
from adapter_runtime.layers.base import AdapterLayerBase
from adapter_runtime.methods.bottleneck import Bottleneck


class BottleneckLayer(AdapterLayerBase, nn.Module):
    """Adds the output of a sublayer to the residual stream, with the active bottleneck adapters in between.

    It is used as a child of its own (``layer.output_adapters``), or as a base of a class whose forward it takes part
    in (``BertOutputWithAdapters``), which then calls `bottleneck_layer_forward`.
    """

    adapter_modules = ("adapters",)
    adapters: nn.ModuleDict

    def add_adapter(self, name: str, config: BnConfig, hidden_size: int) -> None:
        """Create the adapter `name` here."""
        self.adapters[name] = Bottleneck(config, hidden_size, self.layer_index)

    def forward(self, x: torch.Tensor, residual: torch.Tensor, norm: Any = None) -> torch.Tensor:
        return self.bottleneck_layer_forward(x, residual, norm)

    def bottleneck_layer_forward(self, x: torch.Tensor, residual: torch.Tensor, norm: Any = None) -> torch.Tensor:
        """The new value of the residual stream.

        Args:
            x: [B, L, H], output of the sublayer.
            residual: [B, L, H], the residual stream before it.
            norm: the norm of the layer where it follows the addition, else None.
        """
        running = self.running if thread.setup is None else self.running_under(thread.setup)
        if running is not None:
            for adapter in running:
                x = adapter(x, residual, norm)
            if not adapter.config.original_ln_after:
                return x
        total = x + residual
        return total if norm is None else norm(total)
