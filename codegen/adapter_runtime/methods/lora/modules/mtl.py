"""MTL-LoRA: adapters of several tasks that can share their matrices and differ in a small one."""

from __future__ import annotations

import torch
from torch import nn

from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.lora.config import MTLLoRAConfig
from adapter_runtime.methods.lora.modules.base import ProjectionSite
from adapter_runtime.methods.lora.modules.low_rank import LowRank, init_factors


class TaskMatrix(nn.Module):
    """The matrix of one task between the two projections: diagonal, or a full one.

    Parameters: values [n * r], or [n * r, r] for ``task_specific_matrix_type="linear"``.
    """

    undecayed = ("values",)  # neutral at the identity: see ``training/decay.py``

    def __init__(self, config: MTLLoRAConfig, parts: int) -> None:
        super().__init__()
        self.rank, self.parts = config.r, parts
        self.is_diagonal = config.task_specific_matrix_type == "singular_values"
        values = torch.ones(parts * config.r) if self.is_diagonal else torch.eye(config.r).repeat(parts, 1)
        self.values = nn.Parameter(values)

    def forward(self, down: torch.Tensor) -> torch.Tensor:
        """The down-projection A [n * r, I] with the matrix applied to its outputs, a row vector from the right."""
        if self.is_diagonal:
            return self.values[:, None] * down
        if self.parts == 1:
            return self.values.t() @ down
        matrices = self.values.view(self.parts, self.rank, self.rank)
        return (matrices.mT @ down.view(self.parts, self.rank, -1)).flatten(0, 1)


class MTLLoRA(LowRank):
    """``sum over u of softmax(w / sharpness)_u B_u T A`` with T of the task (https://arxiv.org/abs/2410.09437).

    Parameters: lora_A [n * r, I], lora_B [U, O, r] for U up-projections, weights [n * U], task_specific.values.
    `SharingMixin.share_parameters` lets adapters have lora_A and lora_B in common.
    """

    sharable_parameters = ("lora_A", "lora_B")

    def __init__(self, config: MTLLoRAConfig, site: ProjectionSite) -> None:
        super().__init__(config, site)
        count = config.n_up_projection
        with seeded(config.init_weights_seed):
            self.lora_A = nn.Parameter(torch.empty(config.r * len(self.sizes), site.in_features))
            self.lora_B = nn.Parameter(torch.empty(count, sum(self.sizes), config.r))
            for up in self.lora_B.detach():
                init_factors(config.init_weights, self.lora_A, up)
        self.weights = nn.Parameter(torch.ones(len(self.sizes) * count))
        self.task_specific = TaskMatrix(config, len(self.sizes))
        self.sharpness = config.weights_sharpness

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.task_specific(self.lora_A), self._up()

    def _up(self) -> torch.Tensor:
        """The weighted sum [O, r] of the up-projections."""
        count = self.lora_B.shape[0]
        if len(self.sizes) == 1:
            shares = torch.softmax(self.weights / self.sharpness, dim=0)
            return (shares @ self.lora_B.flatten(1)).view(self.lora_B.shape[1:])
        shares = torch.softmax(self.weights.view(-1, count) / self.sharpness, dim=1)
        parts = torch.split(self.lora_B, self.sizes, dim=1)
        return torch.cat([torch.einsum("u,uor->or", share, part) for share, part in zip(shares, parts, strict=True)])
