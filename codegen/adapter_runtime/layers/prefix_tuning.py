"""Attention cores with prefixes: they put learned keys and values in front of their own, and grow the mask.

The prefix goes in after the update of the cache, so that a cache never holds it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.context import ForwardContext, thread
from adapter_runtime.layers.base import AdapterLayerBase
from adapter_runtime.layers.masks import check_backend, grow, grow_bias
from adapter_runtime.methods.bottleneck import mean_gate
from adapter_runtime.methods.prefix_tuning import LayerPrefix, PrefixTuning


class PlacedPrefix(NamedTuple):
    """A prefix as one attention sees it."""

    tuning: PrefixTuning
    position: int  # which of the attentions of `tuning` this is
    gate: nn.Module | None

    def states(self, context: ForwardContext | None) -> LayerPrefix:
        """The keys and values for this attention."""
        return (self.tuning() if context is None else context.states_of(self.tuning))[self.position]


class PrefixTuningLayer(AdapterLayerBase, nn.Module):
    """The prefixes of one attention. Their parameters belong to the model's `PrefixTuningPool`; gates are held here."""

    adapter_modules = ("prefix_gates",)
    prefix_gates: nn.ModuleDict

    def __init__(self, layer_index: int, location_key: str) -> None:
        super().__init__()
        self.init_adapter_layer(layer_index, location_key)
        self.placed: dict[str, PlacedPrefix] = {}

    def place(self, name: str, tuning: PrefixTuning, position: int, hidden_size: int) -> None:
        """Use the prefix `position` of `tuning` for the adapter `name`."""
        gate = None
        if tuning.config.use_gating:
            gate = nn.Linear(hidden_size, 1 if tuning.config.shared_gating else 2)
            nn.init.normal_(gate.weight, std=0.02)
            nn.init.zeros_(gate.bias)
            self.prefix_gates[name] = gate
        self.placed[name] = PlacedPrefix(tuning, position, gate)

    def adapter_names(self) -> set[str]:
        return set(self.placed)

    def delete_adapter(self, name: str) -> None:
        super().delete_adapter(name)
        self.placed.pop(name, None)

    def runnable(self, name: str) -> Any:
        return self.placed.get(name)

    def resolve(self, block: AdapterCompositionBlock | None) -> tuple[PlacedPrefix, ...] | None:
        """The prefixes that run here, in order."""
        if block is None or self.is_skipped:
            return None
        found = [self.runnable(name) for name in block.names()]
        return tuple(entry for entry in found if entry is not None) or None

    def prefixes(
        self, running: tuple[PlacedPrefix, ...], key: torch.Tensor, gate_input: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Keys and values [B, heads, P_i, width] of all running prefixes; the last of a stack comes first."""
        keys, values = [], []
        for placed in reversed(running):
            state = placed.states(thread.context)
            prefix_key, prefix_value = (_like(part, key) for part in state)
            if placed.gate is not None:
                gate = mean_gate(placed.gate(gate_input)).unsqueeze(1)  # (B, 1, 1, 1 or 2)
                prefix_key, prefix_value = prefix_key * gate[..., :1], prefix_value * gate[..., -1:]
            keys.append(prefix_key)
            values.append(prefix_value)
        return keys, values


def _like(prefix: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """[heads, P, width] -> [B, heads, P, width], with the batch size, type and device of `key`."""
    if prefix.dtype is not key.dtype or prefix.device != key.device:
        prefix = prefix.to(key.device, key.dtype)
    return prefix.expand(key.shape[0], -1, -1, -1)


class AttentionAdaptersMixin:
    """Base of generated attention classes: what their forwards call before the keys and values meet the queries."""

    prefix_tuning: PrefixTuningLayer

    def init_prefix_tuning(self, layer_index: int, location_key: str) -> None:
        """Give the attention room for prefixes."""
        self.prefix_tuning = PrefixTuningLayer(layer_index, location_key)

    def _running_prefixes(self) -> tuple[PlacedPrefix, ...] | None:
        layer = self.prefix_tuning
        return layer.running if thread.setup is None else layer.running_under(thread.setup)

    def prepend_prefix(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        gate_input: torch.Tensor | None = None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Keys, values and mask with the active prefixes in front.

        Args:
            query: [B, query heads, Q, width].
            key: [B, key heads, K, width], from the cache too.
            value: [B, key heads, K, value width].
            mask: [B or 1, heads or 1, Q, K], boolean or additive; None where there is none.
            gate_input: [B, Q, H], the hidden states that gates read.
            keywords: of the call of the attention kernel; ``is_causal`` is read.

        Raises:
            UnsupportedMethodError: the attention implementation cannot honour a prefix.
        """
        running = self._running_prefixes()
        if running is None:
            return key, value, mask
        check_backend(self)
        keys, values = self.prefix_tuning.prefixes(running, key, gate_input)
        is_causal = keywords.get("is_causal")
        if is_causal is None:
            is_causal = getattr(self, "is_causal", True)
        length = sum(prefix.shape[-2] for prefix in keys)
        mask = grow(self, mask, query, key, length, is_causal)
        return torch.cat([*keys, key], dim=-2), torch.cat([*values, value], dim=-2), mask

    def extend_bias(self, bias: torch.Tensor | None, key: torch.Tensor) -> torch.Tensor | None:
        """A bias [..., Q, K] of the attention scores with zeros for the active prefixes in front."""
        running = self._running_prefixes()
        if running is None or bias is None:
            return bias
        return grow_bias(bias, sum(placed.tuning.config.prefix_length for placed in running))
