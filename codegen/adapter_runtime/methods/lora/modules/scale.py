"""IA3: one learned factor per output feature of a projection."""

from __future__ import annotations

import torch
from torch import nn

from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import (
    ProjectionAdapter,
    ProjectionSite,
    exact,
    in_parts,
    spans_of,
)


class Scale(ProjectionAdapter):
    """``output * alpha * lora_B``; gated: ``output * gate(x) * lora_B`` (https://arxiv.org/abs/2205.05638).

    The bias of the projection is a part of its output, and scaled with it.

    Parameters: lora_B [O, 1].
    """

    scales = True
    undecayed = ("lora_B",)  # neutral at one: see ``training/decay.py``

    def __init__(self, config: LoRAConfig, site: ProjectionSite) -> None:
        super().__init__(config, site)
        self.lora_B = nn.Parameter(torch.ones(sum(self.sizes), 1))
        with seeded(config.init_weights_seed):
            if config.init_weights == "bert":
                nn.init.normal_(self.lora_B, std=0.02)
            elif config.init_weights == "lora":
                nn.init.zeros_(self.lora_B)

    def factor(self) -> torch.Tensor:
        """The factors [O], times alpha unless there is a gate."""
        factor = self.lora_B.view(-1)
        return factor if self.scaling == 1.0 or self.gate is not None else factor * self.scaling

    def forward(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        factor = self.factor().to(output.dtype)
        if self.is_whole and self.gate is None:
            return output * factor
        factors = list(torch.split(factor, self.sizes))
        if self.gate is not None:
            gates = self.gates(x if source is None else source)
            factors = [part * gate.to(output.dtype) for part, gate in zip(factors, gates, strict=True)]
        if self.is_whole:
            return output * factors[0]
        scaled = [span * part for span, part in zip(spans_of(output, self.parts), factors, strict=True)]
        return in_parts(output, self.parts, scaled)

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.refuse_to_merge_gates()
        scale = exact(weight.new_ones(weight.shape[0]))
        for (start, stop), part in zip(self.parts, torch.split(self.factor(), self.sizes), strict=True):
            scale[start:stop] = part
        merged = (exact(weight) * scale[:, None]).to(weight.dtype)
        return merged, None if bias is None else (exact(bias) * scale).to(bias.dtype)
