"""VeRA: two random matrices that all projections share, and two learned vectors per projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import ProjectionSite
from adapter_runtime.methods.lora.modules.low_rank import LowRank, init_factors

SHARED = ("lora_A", "lora_B")  # keys of the matrices among the shared parameters of an adapter


class VeRA(LowRank):
    """``diag(b) B diag(d) A`` with A and B shared and never trained (https://arxiv.org/abs/2310.11454).

    Where projections differ in width, the matrices are as large as the largest, and each takes the first rows and columns.

    Parameters: vera_D [n * r], vera_B [O]. With ``vera_dense=True``, which files of `adapters` are read with, they are
    matrices [r, r] and [O, O] in the place of the diagonal ones.

    Args:
        shared: holds lora_A [r, largest I] and lora_B [largest O_i, r].

    Raises:
        UnsupportedMethodError: `vera_dense` is true and several parts of a fused projection are adapted.
    """

    shared: SharedDict

    def __init__(self, config: LoRAConfig, site: ProjectionSite, shared: SharedDict) -> None:
        super().__init__(config, site)
        self.__dict__["shared"] = shared  # not registered as a child: a state dict names each parameter once
        assert config.vera_d is not None and config.vera_b is not None
        rows, outputs = config.r * len(self.sizes), sum(self.sizes)
        if config.vera_dense and len(self.sizes) > 1:
            raise UnsupportedMethodError(
                "vera_dense=True has one matrix per projection and cannot adapt several parts of a fused one. Use vectors:"
                " vera_dense=False."
            )
        shape = (lambda size: torch.eye(size)) if config.vera_dense else torch.ones
        self.vera_D = nn.Parameter(shape(rows) * config.vera_d)
        self.vera_B = nn.Parameter(shape(outputs) * config.vera_b)
        self.is_narrow = shared["lora_A"].shape[1] != site.in_features

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        down, up = self.shared["lora_A"], self.shared["lora_B"]
        if down.device != self.vera_D.device:  # projections may be on several devices, the shared matrices on one
            down, up = down.to(self.vera_D.device), up.to(self.vera_D.device)
        if self.is_narrow:
            down = down[:, : self.in_features]
        if len(self.sizes) == 1:
            up = up if up.shape[0] == self.sizes[0] else up[: self.sizes[0]]
            if self.config.vera_dense:
                return self.vera_D @ down, self.vera_B @ up
            return self.vera_D[:, None] * down, self.vera_B[:, None] * up
        rows = self.vera_D.view(len(self.sizes), -1, 1) * down
        return rows.flatten(0, 1), self.vera_B[:, None] * torch.cat([up[:size] for size in self.sizes])


def add_shared_matrices(
    shared: SharedDict, config: LoRAConfig, sites: Sequence[ProjectionSite], like: torch.Tensor
) -> None:
    """Draw the matrices that all `sites` share.

    Args:
        shared: takes lora_A [r, largest I] and lora_B [largest O_i, r], both frozen.
        like: its type, where the config gives none, and its device are theirs.
    """
    dtype = getattr(torch, config.dtype) if config.dtype else like.dtype
    inputs = max(site.in_features for site in sites)
    outputs = max(size for site in sites for size in site.sizes)
    with seeded(config.init_weights_seed):
        down, up = torch.empty(config.r, inputs), torch.empty(outputs, config.r)
        init_factors(config.init_weights, down, up)
    for key, matrix in zip(SHARED, (down, up), strict=True):
        shared[key] = nn.Parameter(matrix.to(like.device, dtype), requires_grad=False)
    shared.freeze(SHARED)
    shared.has_own_type = True
