"""Prefix tuning: the parameters of one prefix, for all layers of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from adapter_runtime.call.context import thread
from adapter_runtime.methods.common.activations import activation
from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.prefix_tuning.call import LayerPrefix, PrefixSlot
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.programs.layer import AdapterLayerBase


class PrefixShape(NamedTuple):
    """What one attention needs: as many heads as it has for keys, and their widths."""

    heads: int
    key_width: int
    value_width: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers per prefix position for keys and for values."""
        return self.heads * self.key_width, self.heads * self.value_width


class StackedPrefixes(NamedTuple):
    """The prefixes of L attentions of one shape."""

    states: torch.Tensor  # [2L, heads, P, width] or [2L, B, heads, P, width]; keys and values alternate

    def layers(self) -> list[LayerPrefix]:
        """The prefix of each of the L attentions."""
        parts = self.states.unbind()
        return [LayerPrefix(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]


class PrefixTuning(nn.Module):
    """Keys and values in front of those of L attentions (https://arxiv.org/abs/2101.00190).

    They are the parameters themselves (flat), or come out of an MLP over P learned embeddings.

    Args:
        config: the options.
        hidden_size: width of the embeddings.
        shapes: of the L attentions.
        key: tells the prefixes of a model apart.

    Raises:
        InvalidConfigError: the non-linearity is unknown.
    """

    def __init__(self, config: PrefixTuningConfig, hidden_size: int, shapes: Sequence[PrefixShape], key: str) -> None:
        super().__init__()
        self.config = config
        self.key = key
        self.control_trans: nn.Parameter | nn.Sequential
        self.shapes = list(shapes)
        self.sizes = [size for shape in shapes for size in shape.sizes]
        first = shapes[0]
        self.is_uniform = all(shape == first for shape in shapes) and first.key_width == first.value_width
        total = sum(self.sizes)
        with seeded(config.init_weights_seed):
            if config.flat:
                self.control_trans = nn.Parameter(torch.randn(config.prefix_length * total))
            else:
                self.wte = nn.Embedding(config.prefix_length, hidden_size)
                self.control_trans = nn.Sequential(
                    nn.Linear(hidden_size, config.bottleneck_size),
                    activation(config.non_linearity),
                    nn.Linear(config.bottleneck_size, total),
                )

    def flat_states(self) -> torch.Tensor:
        """The keys and values of all attentions: [P * sum of sizes] of a flat prefix, [P, sum of sizes] out of an MLP."""
        control = self.control_trans
        return control if isinstance(control, nn.Parameter) else cast("torch.Tensor", control(self.wte.weight))

    def extra_repr(self) -> str:
        return f"prefix_length={self.config.prefix_length}, attentions={len(self.shapes)}"

    def eject(self) -> None:
        """Keep what the MLP computes as the parameters, and drop the MLP."""
        control = self.control_trans
        if isinstance(control, nn.Parameter):
            return
        with torch.no_grad():
            flat = self.flat_states().reshape(-1)
        is_trained = any(parameter.requires_grad for parameter in self.parameters())
        del self.wte, self.control_trans
        self.control_trans = nn.Parameter(flat, requires_grad=is_trained)
        self.config = self.config.replace(flat=True)

    def forward(self) -> list[LayerPrefix]:
        """The prefixes of all attentions, in the order of `shapes`."""
        return [
            prefix
            for states in self.states()
            for prefix in (states.layers() if isinstance(states, StackedPrefixes) else [states])
        ]

    def states(self) -> list[StackedPrefixes] | list[LayerPrefix]:
        """What `forward` gives, in one tensor where all attentions have the same shape."""
        length = self.config.prefix_length
        flat = self.flat_states()
        if self.training and self.config.dropout > 0.0:
            flat = nn.functional.dropout(flat, self.config.dropout)
        if self.is_uniform:
            heads, width, _ = self.shapes[0]
            # (P, 2L, heads, width) -> (2L, heads, P, width); keys and values alternate
            return [StackedPrefixes(flat.view(length, -1, heads, width).permute(1, 2, 0, 3))]
        pieces = iter(torch.split(flat.view(length, -1), self.sizes, dim=1))
        return [
            LayerPrefix(*(next(pieces).view(length, shape.heads, -1).transpose(0, 1) for _ in range(2)))
            for shape in self.shapes
        ]

    def for_rows(self, key: torch.Tensor) -> list[LayerPrefix]:
        """The prefixes of all attentions, [B, heads, P, width]: once for all layers of a call, if there is one.

        Args:
            key: [B, heads, K, width]; gives the number of rows, the type and the device.
        """
        context = thread.context
        if context is None:
            return _batched(self.states(), key)
        batched = context.slot(PrefixSlot).batched
        # Some models run their layers several times, the first ones without gradients: what was made there has none.
        which = (self.key, torch.is_grad_enabled())
        known = batched.get(which)
        if known is None or not _fits(known[0].key, key):
            known = batched[which] = _batched(context.states_of(self), key)
        return known


def _fits(prefix: torch.Tensor, key: torch.Tensor) -> bool:
    return prefix.shape[0] == key.shape[0] and prefix.dtype is key.dtype and prefix.device == key.device


def _batched(states: Sequence[tuple[torch.Tensor, ...]], key: torch.Tensor) -> list[LayerPrefix]:
    first = states[0]
    if isinstance(first, StackedPrefixes):
        return StackedPrefixes(_like(first.states, key).unsqueeze(1).expand(-1, key.shape[0], -1, -1, -1)).layers()
    return [LayerPrefix(*(_like(part, key).expand(key.shape[0], -1, -1, -1) for part in layer)) for layer in states]


def _like(prefix: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """`prefix`, with the dtype and device of `key`."""
    if prefix.dtype is key.dtype and prefix.device == key.device:
        return prefix
    return prefix.to(key.device, key.dtype)


class PrefixTuningPool(AdapterLayerBase):
    """The prefixes of a model: adapter name -> kind of attention ("self_prefix", ...) -> `PrefixTuning`."""

    adapter_containers = ("prefix_tunings",)
    prefix_tunings: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "prefix_tuning")
