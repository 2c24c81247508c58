"""The bottleneck adapter: a module that sees the output of a sublayer and the residual stream."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from adapter_runtime.call.context import Place, record_gate
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.phm import PHMLinear
from adapter_runtime.methods.common.activations import activation
from adapter_runtime.methods.common.gates import mean_gate, refuse_without_sequence
from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.common.shared_parameters import SharedDict

Norm = Callable[[torch.Tensor], torch.Tensor]  # a norm of the upstream layer


class Bottleneck(nn.Module):
    """Down-projection, non-linearity, up-projection; with residuals, norms, scale, gate and dropout as configured.

    Shapes: B batch, L length, H hidden, D = H // reduction factor (`bottleneck_size`).

    Args:
        config: the options.
        hidden_size: H.
        layer_index: decides the reduction factor where the config gives it by layer.
        shared: parameters that the adapter has once for all layers (``phm.share``).

    Raises:
        InvalidConfigError: the non-linearity is unknown, or `phm_dim` does not divide H and D.
    """

    undecayed = ("scaling",)  # neutral at one: see ``training/decay.py``

    def __init__(self, config: BnConfig, hidden_size: int, layer_index: int, shared: SharedDict | None = None) -> None:
        super().__init__()
        self.config = config
        self.place = Place("", layer_index, "")  # `BottleneckLayer` completes it
        with seeded(config.init_weights_seed):
            self._create(hidden_size, bottleneck_size(config, hidden_size, layer_index), shared)
            self.reset_parameters()
        self.is_scaled = isinstance(self.scaling, nn.Parameter) or self.scaling != 1.0

    def _create(self, hidden_size: int, size: int, shared: SharedDict | None) -> None:
        config = self.config
        self.adapter_norm_before = nn.LayerNorm(hidden_size) if config.ln_before else None
        # The numbers of the children are those of files: with a norm of its own the projection comes second.
        position = int(config.ln_before)
        self.down_key = str(position)
        self.adapter_down = nn.Sequential()
        self.adapter_down.add_module(self.down_key, self._projection(hidden_size, size, "down", shared))
        self.adapter_down.add_module(str(position + 1), activation(config.non_linearity))
        self.adapter_up = self._projection(size, hidden_size, "up", shared)
        self.adapter_norm_after = nn.LayerNorm(hidden_size) if config.ln_after else None
        self.gate = nn.Linear(hidden_size, 1) if config.use_gating else None
        self.scaling: float | nn.Parameter = (
            nn.Parameter(torch.ones(hidden_size if config.scaling == "channel" else 1))
            if isinstance(config.scaling, str)
            else config.scaling
        )

    def _projection(
        self, in_features: int, out_features: int, position: str, shared: SharedDict | None
    ) -> nn.Linear | PHMLinear:
        if self.config.phm_layer:
            return PHMLinear(self.config, in_features, out_features, position, shared)
        return nn.Linear(in_features, out_features)

    def reset_parameters(self) -> None:
        """Draw the weights as the config says. Hypercomplex layers have drawn theirs in their own way."""
        down, up = self.adapter_down.get_submodule(self.down_key), self.adapter_up
        for layer in (down, up):
            if isinstance(layer, nn.Linear):
                draw(layer, self.config.init_weights)
        if self.config.init_weights == "mam_adapter":  # https://arxiv.org/abs/2110.04366: starts as zero
            if isinstance(up, PHMLinear):
                up.zero_()
            else:
                nn.init.zeros_(up.weight)
        if self.gate is not None:
            draw(self.gate, "bert")

    def forward(self, x: torch.Tensor, residual: torch.Tensor, norm: Norm | None) -> torch.Tensor:
        """The output of the adapter, which takes the place of `x`.

        Args:
            x: [B, L, H], output of the sublayer, or of the adapter before in a stack.
            residual: [B, L, H], the residual stream before the sublayer.
            norm: the norm of the layer where it follows the addition, else None.
        """
        entry, own_residual = self.before(x, residual, norm)
        output = self.transform(entry)
        if self.adapter_norm_after is None:
            return output + own_residual
        if self.config.adapter_residual_before_ln and not self.config.is_parallel:
            return self._in_own_type(self.adapter_norm_after, output + own_residual)
        return self._in_own_type(self.adapter_norm_after, output) + own_residual

    def extra_repr(self) -> str:
        size = self.adapter_up.in_features
        shown = f"size={size}" if isinstance(self.scaling, nn.Parameter) else f"size={size}, scaling={self.scaling}"
        return f"{shown}, is_parallel=True" if self.config.is_parallel else shown

    def before(
        self, x: torch.Tensor, residual: torch.Tensor | None, norm: Norm | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The input of the down-projection and the residual of the adapter's own, both [B, L, H].

        Args:
            x: [B, L, H], output of the sublayer, or of the adapter before in a stack.
            residual: [B, L, H], the residual stream before the sublayer; None where an interface names no module that gets
                it. Then nothing is added before the adapter.
            norm: the norm of the layer where it follows the addition, else None.
        """
        if residual is None or (not self.config.original_ln_before and not self.config.is_parallel):
            return x, x
        if self.config.is_parallel:
            return residual, x
        total = x + residual
        entry = total if norm is None else norm(total)
        if self.config.residual_before_ln == "post_add":
            return entry, total
        return entry, x if self.config.residual_before_ln else entry

    def up(self, entry: torch.Tensor) -> torch.Tensor:
        """[B, L, H] -> [B, L, H]: the two projections, with scale and stochastic depth. This is what a fusion mixes."""
        output = self._in_own_type(self._project, entry)
        if self.training and self.config.stochastic_depth > 0.0:
            output = drop_samples(output, self.config.stochastic_depth)
        return output * self.scaling if self.is_scaled else output

    def _project(self, entry: torch.Tensor) -> torch.Tensor:
        hidden = entry if self.adapter_norm_before is None else self.adapter_norm_before(entry)
        output: torch.Tensor = self.adapter_up(self.adapter_down(hidden))
        return output

    def _in_own_type(self, run: Callable[[torch.Tensor], torch.Tensor], entry: torch.Tensor) -> torch.Tensor:
        """`run(entry)` in the type of the adapter's weights, given back in that of `entry`.

        Upstream keeps some sublayers in single precision where the model is in half precision (T5). Under autocast torch decides.
        """
        bias = self.adapter_up.b if isinstance(self.adapter_up, PHMLinear) else self.adapter_up.bias
        if bias is None or bias.dtype is entry.dtype or torch.is_autocast_enabled(entry.device.type):
            return run(entry)
        return run(entry.to(bias.dtype)).to(entry.dtype)

    def transform(self, entry: torch.Tensor) -> torch.Tensor:
        """[B, L, H] -> [B, L, H]: `up`, with dropout and gate.

        Raises:
            UnsupportedMethodError: there is a gate, and no dimension for the sequence.
        """
        output = self.up(entry)
        if self.training and self.config.dropout > 0.0:
            output = nn.functional.dropout(output, self.config.dropout)
        if self.gate is not None:
            refuse_without_sequence(entry, self.place)
            gate = mean_gate(self._in_own_type(self.gate, entry))
            record_gate(self.place, gate)
            output = output * gate
        return output


def bottleneck_size(config: BnConfig, hidden_size: int, layer_index: int) -> int:
    """D of the adapter in one layer: at least 1."""
    return max(1, int(hidden_size // config.reduction_factor_of(layer_index)))


def draw(layer: nn.Linear, scheme: str) -> None:
    """Draw the weights of a projection; its bias is zero."""
    if scheme == "mam_adapter":
        nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    elif scheme == "houlsby":  # https://arxiv.org/abs/1902.00751: truncated at two standard deviations
        nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
    else:
        nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)


def drop_samples(output: torch.Tensor, probability: float) -> torch.Tensor:
    """Stochastic depth: zero whole samples of `output` [B, ...], scale up the rest (https://arxiv.org/abs/1603.09382)."""
    keep = 1.0 - probability
    kept = output.new_empty((output.shape[0], *[1] * (output.dim() - 1))).bernoulli_(keep)
    return output * (kept / keep)
