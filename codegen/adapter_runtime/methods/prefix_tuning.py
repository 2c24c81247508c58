"""Prefix tuning: the parameters of one prefix, for all layers of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import nn
from transformers.activations import ACT2FN

from adapter_runtime.configuration import PrefixTuningConfig
from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.layers.base import AdapterLayerBase
from adapter_runtime.methods.initialisation import seeded


class PrefixShape(NamedTuple):
    """What one attention needs: as many heads as it has for keys, and their widths."""

    heads: int
    key_width: int
    value_width: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers per prefix position for keys and for values."""
        return self.heads * self.key_width, self.heads * self.value_width


class LayerPrefix(NamedTuple):
    """The prefix of one attention: keys and values [heads, P, width], without a batch dimension."""

    key: torch.Tensor
    value: torch.Tensor


class PrefixTuning(nn.Module):
    """Keys and values in front of those of L attentions (https://arxiv.org/abs/2101.00190).

    They are the parameters themselves (flat), or come out of an MLP over P learned embeddings.

    Args:
        config: the options.
        hidden_size: width of the embeddings.
        shapes: of the L attentions.
        key: tells the prefixes of a model apart.
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
        if not config.flat and config.non_linearity not in ACT2FN:
            raise InvalidConfigError(
                f"No activation is called {config.non_linearity!r}. {nearest(config.non_linearity, ACT2FN)}"
            )
        with seeded(config.init_weights_seed):
            if config.flat:
                self.control_trans = nn.Parameter(torch.randn(config.prefix_length * total))
            else:
                self.wte = nn.Embedding(config.prefix_length, hidden_size)
                self.control_trans = nn.Sequential(
                    nn.Linear(hidden_size, config.bottleneck_size),
                    ACT2FN[config.non_linearity],
                    nn.Linear(config.bottleneck_size, total),
                )

    def _flat_states(self) -> torch.Tensor:
        """[P * sum of sizes] or [P, sum of sizes]"""
        control = self.control_trans
        return control if isinstance(control, nn.Parameter) else cast("torch.Tensor", control(self.wte.weight))

    def eject(self) -> None:
        """Keep what the MLP computes as the parameters, and drop the MLP."""
        control = self.control_trans
        if isinstance(control, nn.Parameter):
            return
        with torch.no_grad():
            flat = self._flat_states().reshape(-1)
        is_trained = any(parameter.requires_grad for parameter in self.parameters())
        del self.wte, self.control_trans
        self.control_trans = nn.Parameter(flat, requires_grad=is_trained)
        self.config = self.config.replace(flat=True)

    def forward(self) -> list[LayerPrefix]:
        """The prefixes of all attentions, in the order of `shapes`."""
        length = self.config.prefix_length
        flat = self._flat_states()
        if self.training and self.config.dropout > 0.0:
            flat = nn.functional.dropout(flat, self.config.dropout)
        if self.is_uniform:
            heads, width, _ = self.shapes[0]
            # (P, 2L, heads, width) -> 2L times (heads, P, width); keys and values alternate
            states = flat.view(length, -1, heads, width).permute(1, 2, 0, 3).unbind()
            return [LayerPrefix(states[i], states[i + 1]) for i in range(0, len(states), 2)]
        pieces = iter(torch.split(flat.view(length, -1), self.sizes, dim=1))
        return [
            LayerPrefix(*(next(pieces).view(length, shape.heads, -1).transpose(0, 1) for _ in range(2)))
            for shape in self.shapes
        ]


class PrefixTuningPool(AdapterLayerBase, nn.Module):
    """The prefixes of a model: adapter name -> kind of attention ("self_prefix", ...) -> `PrefixTuning`."""

    adapter_modules = ("prefix_tunings",)
    prefix_tunings: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "prefix_tuning")
