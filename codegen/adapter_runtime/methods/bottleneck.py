"""The bottleneck adapter: a module that sees the output of a sublayer and the residual stream."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from adapter_runtime.configuration import BnConfig
from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.methods.initialisation import seeded

Norm = Any  # a callable norm of the upstream layer, or None


class Bottleneck(nn.Module):
    """Down-projection, non-linearity, up-projection; with residuals, norms, scale, gate and dropout as configured.

    Shapes: B batch, L length, H hidden, D = H // reduction factor.

    Args:
        config: the options.
        hidden_size: H.
        layer_index: decides the reduction factor where the config gives it by layer.

    Raises:
        InvalidConfigError: the non-linearity is unknown.
    """

    def __init__(self, config: BnConfig, hidden_size: int, layer_index: int) -> None:
        super().__init__()
        if config.non_linearity not in ACT2FN:
            raise InvalidConfigError(
                f"No activation is called {config.non_linearity!r}. {nearest(config.non_linearity, ACT2FN)}"
            )
        self.config = config
        size = max(1, int(hidden_size // config.reduction_factor_of(layer_index)))
        self.adapter_norm_before = nn.LayerNorm(hidden_size) if config.ln_before else None
        # The numbers of the children are those of files: with a norm of its own the projection comes second.
        position = int(config.ln_before)
        self.adapter_down = nn.Sequential()
        self.adapter_down.add_module(str(position), nn.Linear(hidden_size, size))
        self.adapter_down.add_module(str(position + 1), ACT2FN[config.non_linearity])
        self.adapter_up = nn.Linear(size, hidden_size)
        self.adapter_norm_after = nn.LayerNorm(hidden_size) if config.ln_after else None
        self.gate = nn.Linear(hidden_size, 1) if config.use_gating else None
        self.scaling: float | nn.Parameter = (
            nn.Parameter(torch.ones(hidden_size if config.scaling == "channel" else 1))
            if isinstance(config.scaling, str)
            else float(config.scaling)
        )
        self.is_scaled = isinstance(config.scaling, str) or float(config.scaling) != 1.0
        with seeded(config.init_weights_seed):
            self.reset_parameters(position)

    def reset_parameters(self, position: int) -> None:
        """Draw the weights as the config says."""
        down, scheme = self.adapter_down.get_submodule(str(position)), self.config.init_weights
        assert isinstance(down, nn.Linear)
        if scheme == "mam_adapter":  # https://arxiv.org/abs/2110.04366: starts as zero
            nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.adapter_up.weight)
        else:
            for layer in (down, self.adapter_up):
                if scheme == "houlsby":  # https://arxiv.org/abs/1902.00751: truncated at two standard deviations
                    nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
                else:
                    nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(self.adapter_up.bias)
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)

    def forward(self, x: torch.Tensor, residual: torch.Tensor, norm: Norm) -> torch.Tensor:
        """The output of the adapter, which takes the place of `x`.

        Args:
            x: [B, L, H], output of the sublayer, or of the adapter before in a stack.
            residual: [B, L, H], the residual stream before the sublayer.
            norm: the norm of the layer where it follows the addition, else None.
        """
        if self.config.is_parallel:
            return x + self.normed(self.transform(residual))
        entry, own_residual = self.before(x, residual, norm)
        output = self.transform(entry)
        if self.adapter_norm_after is None:
            return output + own_residual
        if self.config.adapter_residual_before_ln:
            return self.normed(output + own_residual)
        return self.normed(output) + own_residual

    def before(self, x: torch.Tensor, residual: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """What enters the adapter, and what its own residual connection carries."""
        if not self.config.original_ln_before:
            return x, x
        total = x + residual
        entry = total if norm is None else norm(total)
        if self.config.residual_before_ln == "post_add":
            return entry, total
        return entry, x if self.config.residual_before_ln else entry

    def transform(self, entry: torch.Tensor) -> torch.Tensor:
        """[B, L, H] -> [B, L, H]: the bottleneck itself, with scale, stochastic depth, dropout and gate."""
        hidden = entry if self.adapter_norm_before is None else self.adapter_norm_before(entry)
        output: torch.Tensor = self.adapter_up(self.adapter_down(hidden))
        if self.training and self.config.stochastic_depth > 0.0:
            output = drop_samples(output, self.config.stochastic_depth)
        if self.is_scaled:
            output = output * self.scaling
        if self.training and self.config.dropout > 0.0:
            output = nn.functional.dropout(output, self.config.dropout)
        if self.gate is not None:
            output = output * mean_gate(self.gate(entry))
        return output

    def normed(self, output: torch.Tensor) -> torch.Tensor:
        return output if self.adapter_norm_after is None else self.adapter_norm_after(output)


def mean_gate(logits: torch.Tensor) -> torch.Tensor:
    """[B, L, G] -> [B, 1, G]: one gate per sample, averaged over the sequence (https://arxiv.org/abs/2110.07577)."""
    return torch.sigmoid(logits).mean(dim=tuple(range(1, logits.dim() - 1)), keepdim=True)


def drop_samples(output: torch.Tensor, probability: float) -> torch.Tensor:
    """Stochastic depth: zero whole samples, scale up the rest (https://arxiv.org/abs/1603.09382)."""
    keep = 1.0 - probability
    kept = output.new_empty((output.shape[0], *[1] * (output.dim() - 1))).bernoulli_(keep)
    return output * (kept / keep)
