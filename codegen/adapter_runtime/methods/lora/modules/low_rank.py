"""Low-rank updates of one projection: LoRA, and the base of all methods whose update is ``B A x``."""

from __future__ import annotations

import math

import torch
from torch import nn

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import ProjectionSite, WeightUpdate, exact
from adapter_runtime.methods.lora.modules.dora import Magnitude


class LowRank(WeightUpdate):
    """``output + alpha / r * B A x``; gated: ``output + gate(x) * B A x``. With DoRA, the result is rescaled.

    Subclasses give A and B by `factors`. In a fused projection the parts stand one after the other in both.
    """

    def __init__(self, config: LoRAConfig, site: ProjectionSite) -> None:
        super().__init__(config, site)
        self.m = Magnitude(config, site) if config.use_dora else None

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A [n * r, I] and B [O, r]."""
        raise NotImplementedError(f"{type(self).__name__} has no factors(), which give A and B.")

    def forward(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        down, up = self.factors()
        dropped = self.dropped(x)
        source = x if source is None else source
        if self.is_whole and x.dtype is down.dtype:
            # One product adds, scales and multiplies: addmm works on matrices, so the leading dimensions are folded.
            hidden = torch.mm(dropped.reshape(-1, dropped.shape[-1]), down.t())
            if self.gate is not None:
                (gate,) = self.gates(source)
                hidden = (hidden.view(*x.shape[:-1], -1) * gate).view(hidden.shape)
            flat = output.reshape(-1, output.shape[-1])
            adapted = torch.addmm(flat, hidden, up.t(), alpha=self.scaling).view(output.shape)
        else:
            adapted = self.added(output, self.scaled(self._products(dropped, down, up), source))
        return adapted if self.m is None else self.m(adapted, self.split(down, up), self.scaling)

    def _products(self, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> list[torch.Tensor]:
        """B A x of each part: one [..., O_i] per part."""
        hidden = nn.functional.linear(x.to(down.dtype), down)
        pairs = zip(torch.split(hidden, self.config.r, dim=-1), torch.split(up, self.sizes), strict=True)
        return [nn.functional.linear(part, matrix) for part, matrix in pairs]

    def split(self, down: torch.Tensor, up: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A [r, I] and B [O_i, r] of each part."""
        return list(zip(torch.split(down, self.config.r), torch.split(up, self.sizes), strict=True))

    def matrices(self) -> list[torch.Tensor]:
        """B A of each part [O_i, I], in a precision of at least fp32."""
        return [exact(b) @ exact(a) for a, b in self.split(*self.factors())]

    def merged(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.m is None:
            return super().merged(weight, bias)
        updated, bias = super().merged(exact(weight), bias)
        updated, bias = self.m.merged(weight, updated, bias, self.split(*self.factors()), self.scaling)
        return updated.to(weight.dtype), bias

    def refuse_in_stack(self) -> None:
        if self.m is not None:
            raise UnsupportedMethodError(
                "DoRA rescales all of an output, so it cannot stand in a Stack with another adapter of the same projection."
                " Use BatchSplit, Parallel or Average, or LoRA without use_dora."
            )
        super().refuse_in_stack()


class LoRA(LowRank):
    """Two low matrices (https://arxiv.org/abs/2106.09685).

    Parameters: lora_A [n * r, I], lora_B [O, r].
    """

    def __init__(self, config: LoRAConfig, site: ProjectionSite) -> None:
        super().__init__(config, site)
        with seeded(config.init_weights_seed):
            self.lora_A = nn.Parameter(torch.empty(config.r * len(self.sizes), site.in_features))
            self.lora_B = nn.Parameter(torch.empty(sum(self.sizes), config.r))
            init_factors(config.init_weights, self.lora_A, self.lora_B)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.lora_A, self.lora_B


def init_factors(scheme: str, down: torch.Tensor, up: torch.Tensor) -> None:
    """Draw A [n * r, I] and B [O, r] as `LoRAConfig.init_weights` says."""
    if scheme == "bert":
        nn.init.normal_(down, std=0.02)
        nn.init.normal_(up, std=0.02)
    elif scheme == "ia3":
        nn.init.ones_(down)
        nn.init.ones_(up)
    elif scheme == "vera":
        nn.init.kaiming_uniform_(down)
        nn.init.kaiming_uniform_(up)
    else:
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        nn.init.zeros_(up)
