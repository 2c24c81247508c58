"""Low-rank updates of one projection: the parameters of one adapter, and what they do to an output."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.configuration import LoRAConfig
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.bottleneck import mean_gate
from adapter_runtime.methods.initialisation import seeded

Parts = Sequence[tuple[int, int]]  # spans of output features that are adapted; a plain projection has one


def check_lora(config: LoRAConfig) -> None:
    """Raise for relatives of LoRA that cannot be run.

    Raises:
        UnsupportedMethodError: the config is one of DoRA, VeRA, DVoRA or MTL-LoRA.
    """
    for used, name in (
        (config.use_dora, "DoRA (use_dora=True)"),
        (config.vera_d is not None or config.vera_b is not None, "VeRA (vera_d, vera_b)"),
        (config.architecture != "lora", f"{type(config).__name__}"),
    ):
        if used:
            raise UnsupportedMethodError(f"{name} is not supported yet. Supported on projections: lora, ia3.")


class ProjectionAdapter(nn.Module):
    """Base of what adapts one projection.

    Letters: I input features, O adapted output features, r rank, n number of parts of a fused projection.
    """

    def __init__(self, config: LoRAConfig, in_features: int, parts: Parts) -> None:
        super().__init__()
        self.config = config
        self.parts = list(parts)
        self.sizes = [stop - start for start, stop in parts]
        self.scaling = config.alpha / config.r
        self.gate = nn.Linear(in_features, len(parts)) if config.use_gating else None
        if self.gate is not None:
            nn.init.normal_(self.gate.weight, std=0.02)
            nn.init.zeros_(self.gate.bias)

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The adapted output.

        Args:
            x: [..., I], input of the projection.
            output: [..., O], what the projection made of it.
        """
        raise NotImplementedError

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weight [O, I] and bias [O] with which the bare projection gives the adapted output."""
        raise NotImplementedError

    def gates(self, x: torch.Tensor) -> list[torch.Tensor]:
        """One [B, 1, 1] per part."""
        assert self.gate is not None
        return list(torch.split(mean_gate(self.gate(x)), 1, dim=-1))

    def refuse_to_merge_gates(self) -> None:
        if self.gate is not None:
            raise UnsupportedMethodError("An adapter with a gate depends on the input and cannot be merged.")


class LoRA(ProjectionAdapter):
    """``output + alpha / r * B A x``; gated: ``output + gate(x) * B A x`` (https://arxiv.org/abs/2106.09685).

    Parameters: lora_A [r * n, I], lora_B [O, r]. In a fused projection the adapted parts are stored one after the other.
    """

    def __init__(self, config: LoRAConfig, in_features: int, parts: Parts) -> None:
        super().__init__(config, in_features, parts)
        with seeded(config.init_weights_seed):
            self.lora_A = nn.Parameter(torch.empty(config.r * len(self.sizes), in_features))
            self.lora_B = nn.Parameter(torch.empty(sum(self.sizes), config.r))
            if config.init_weights == "bert":
                nn.init.normal_(self.lora_A, std=0.02)
                nn.init.normal_(self.lora_B, std=0.02)
            else:
                nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
                nn.init.zeros_(self.lora_B)

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        if self.training and self.config.dropout > 0.0:
            x = nn.functional.dropout(x, self.config.dropout)
        is_whole = self.sizes[0] == output.shape[-1]
        if not is_whole or self.gate is not None or x.dtype is not self.lora_A.dtype:
            return self._forward_in_parts(x, output)
        # One product adds, scales and multiplies: addmm works on matrices, so the leading dimensions are folded.
        hidden = torch.mm(x.reshape(-1, x.shape[-1]), self.lora_A.t())
        flat = output.reshape(-1, output.shape[-1])
        return torch.addmm(flat, hidden, self.lora_B.t(), alpha=self.scaling).view(output.shape)

    def _forward_in_parts(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.linear(x.to(self.lora_A.dtype), self.lora_A)
        updates = [
            nn.functional.linear(part, matrix)
            for part, matrix in zip(
                torch.split(hidden, self.config.r, dim=-1), torch.split(self.lora_B, self.sizes), strict=True
            )
        ]
        if self.gate is None:
            updates = [update * self.scaling for update in updates]
        else:
            updates = [
                update * gate for update, gate in zip(updates, self.gates(x.to(self.lora_A.dtype)), strict=True)
            ]
        return add_parts(output, updates, self.parts)

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.refuse_to_merge_gates()
        updates = [
            (b @ a) * self.scaling
            for a, b in zip(torch.split(self.lora_A, self.config.r), torch.split(self.lora_B, self.sizes), strict=True)
        ]
        merged = weight.clone()
        for (start, stop), update in zip(self.parts, updates, strict=True):
            merged[start:stop] += update.to(weight.dtype)
        return merged, bias


class Scale(ProjectionAdapter):
    """``output * lora_B``: one learned factor per output feature (https://arxiv.org/abs/2205.05638).

    Parameters: lora_B [O, 1].
    """

    def __init__(self, config: LoRAConfig, in_features: int, parts: Parts) -> None:
        super().__init__(config, in_features, parts)
        self.lora_B = nn.Parameter(torch.ones(sum(self.sizes), 1))

    def factor(self) -> torch.Tensor:
        """[O]"""
        factor = self.lora_B.view(-1)
        return factor if self.scaling == 1.0 else factor * self.scaling

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        factor = self.factor()
        if len(self.sizes) == 1 and self.sizes[0] == output.shape[-1] and self.gate is None:
            return output * factor.to(output.dtype)
        factors = list(torch.split(factor, self.sizes))
        if self.gate is not None:
            factors = [part * gate for part, gate in zip(factors, self.gates(x), strict=True)]
        return scale_parts(output, factors, self.parts)

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.refuse_to_merge_gates()
        full = weight.new_ones(weight.shape[0])
        for (start, stop), part in zip(self.parts, torch.split(self.factor(), self.sizes), strict=True):
            full[start:stop] = part.to(weight.dtype)
        return weight * full[:, None], None if bias is None else bias * full


def add_parts(output: torch.Tensor, updates: Sequence[torch.Tensor], parts: Parts) -> torch.Tensor:
    """Add each update [..., O_i] to its span of output features."""
    if len(updates) == 1 and parts[0] == (0, output.shape[-1]):
        return output + updates[0].to(output.dtype)
    spans = [output[..., start:stop] for start, stop in parts]
    return _in_spans(output, parts, [s + u.to(output.dtype) for s, u in zip(spans, updates, strict=True)])


def scale_parts(output: torch.Tensor, factors: Sequence[torch.Tensor], parts: Parts) -> torch.Tensor:
    """Multiply each span of output features by its factor [..., O_i]."""
    spans = [output[..., start:stop] for start, stop in parts]
    return _in_spans(output, parts, [s * f.to(output.dtype) for s, f in zip(spans, factors, strict=True)])


def _in_spans(output: torch.Tensor, parts: Parts, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """`output` with `values` in the spans `parts`, which are in order."""
    pieces, position = [], 0
    for (start, stop), value in zip(parts, values, strict=True):
        pieces += [output[..., position:start], value]
        position = stop
    return torch.cat([*pieces, output[..., position:]], dim=-1)


def make_adapter(config: LoRAConfig, in_features: int, parts: Parts) -> ProjectionAdapter:
    """The module that `config` asks for."""
    kind = Scale if config.composition_mode == "scale" else LoRA
    return kind(config, in_features, parts)
