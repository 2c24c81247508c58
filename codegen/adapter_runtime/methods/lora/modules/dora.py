"""DoRA: a weight is a magnitude and a direction, and a low-rank update changes the direction only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import AdaptedProjection, ProjectionSite, exact

Factors = Sequence[tuple[torch.Tensor, torch.Tensor]]  # A [r, I] and B [O_i, r] of each part


class Magnitude(nn.Module):
    """``m / ||W + s B A|| * (W x + s B A x) + bias``, norms taken per output feature (https://arxiv.org/abs/2402.09353).

    The norm counts as a constant in the backward pass, as in section 4.3 of the paper. With ``dora_form="adapters"``,
    which files of `adapters` are read with, it is ``||W + B A||``, is not constant, and rescales the bias too.

    Parameters: weight [O, 1], the magnitudes, which start as those of the projection.

    Raises:
        UnsupportedMethodError: the weight of the projection is quantised.
    """

    projection: AdaptedProjection

    undecayed = ("weight",)  # neutral at the norms of the projection: see ``training/decay.py``

    def __init__(self, config: LoRAConfig, site: ProjectionSite) -> None:
        super().__init__()
        self.parts, self.sizes = list(site.parts), site.sizes
        self.out_features, self.is_whole = site.out_features, site.is_whole
        self.is_paper = config.dora_form == "paper"
        # Not registered as a child: the parameters of the projection are not those of its adapters.
        self.__dict__["projection"] = site.projection
        weight = site.projection.own_weight(without_merged=True).detach()
        if not weight.dtype.is_floating_point or weight.dim() != 2:
            raise UnsupportedMethodError(
                f"DoRA takes norms of a weight in floating point, but this one is of type {weight.dtype}. Use lora."
            )
        rows = torch.cat([weight[start:stop] for start, stop in self.parts])
        self.weight = nn.Parameter(torch.linalg.vector_norm(exact(rows), dim=1, keepdim=True))

    def forward(self, adapted: torch.Tensor, factors: Factors, scaling: float) -> torch.Tensor:
        """The rescaled output.

        Args:
            adapted: [..., P], the output with the low-rank update.
            factors: of the update.
            scaling: s.
        """
        scale = self._of_all(self.scale(self.projection.own_weight(), factors, scaling)).to(adapted.dtype)
        bias = self.projection.own_bias()
        if bias is None or not self.is_paper:
            return adapted * scale
        return torch.lerp(bias.to(adapted.dtype), adapted, scale)  # bias + scale * (adapted - bias)

    def scale(self, weight: torch.Tensor, factors: Factors, scaling: float) -> torch.Tensor:
        """Magnitude over norm [O], for the weight [P, I] of the projection."""
        if not self.is_paper:
            return self.weight.view(-1) / self._norms(weight, factors, 1.0)
        with torch.no_grad():
            norms = self._norms(weight, factors, scaling)
        return self.weight.view(-1) / norms

    def _norms(self, weight: torch.Tensor, factors: Factors, scaling: float) -> torch.Tensor:
        norms = [
            torch.linalg.vector_norm(torch.addmm(weight[start:stop].to(b.dtype), b, a, alpha=scaling), dim=1)
            for (start, stop), (a, b) in zip(self.parts, factors, strict=True)
        ]
        return norms[0] if len(norms) == 1 else torch.cat(norms)

    def _of_all(self, scale: torch.Tensor) -> torch.Tensor:
        """The scale [P] of all output features: 1 for those that are not adapted."""
        if self.is_whole:
            return scale
        pieces, position = [], 0
        for (start, stop), part in zip(self.parts, torch.split(scale, self.sizes), strict=True):
            pieces += [scale.new_ones(start - position), part]
            position = stop
        return torch.cat([*pieces, scale.new_ones(self.out_features - position)])

    def merged(
        self, weight: torch.Tensor, updated: torch.Tensor, bias: torch.Tensor | None, factors: Factors, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias that the projection needs for the same outputs.

        Args:
            weight: [P, I], of the projection.
            updated: [P, I], the same with the low-rank update.
            bias: [P].
        """
        pairs = [(exact(a), exact(b)) for a, b in factors]
        scale = self._of_all(exact(self.scale(exact(weight), pairs, scaling)))
        if bias is not None and not self.is_paper:
            bias = (exact(bias) * scale).to(bias.dtype)
        return updated * scale[:, None], bias
