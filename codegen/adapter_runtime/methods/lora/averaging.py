"""Averages of LoRA's updates ``alpha / r * B A``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.common.averaging import Averaging, weighted_sum
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.low_rank import LoRA


def _adds(config: LoRAConfig) -> bool:
    return config.composition_mode == "add"


def _plain_loras(modules: Sequence[nn.Module], strategy: str) -> list[LoRA]:
    """`modules`, checked to be plain LoRA.

    Raises:
        UnsupportedMethodError: one of them is not plain LoRA.
    """
    loras = [module for module in modules if isinstance(module, LoRA) and type(module) is LoRA]
    if len(loras) < len(modules) or any(lora.gate is not None or lora.m is not None for lora in loras):
        raise UnsupportedMethodError(
            f'{strategy!r} averages updates of plain LoRA, without a gate, magnitudes or shared matrices. Use "linear".'
        )
    return loras


def _negating_b(modules: Sequence[nn.Module], weights: Sequence[float], config: LoRAConfig) -> dict[str, torch.Tensor]:
    """A summed with the absolute weights, B with the signed ones, so that a negative weight subtracts the update."""
    loras = _plain_loras(modules, NEGATING_B.name)
    return {
        "lora_A": weighted_sum([lora.lora_A.detach() for lora in loras], [abs(weight) for weight in weights]),
        "lora_B": weighted_sum([lora.lora_B.detach() for lora in loras], weights),
    }


def _with_rank(config: LoRAConfig, rank: int | None) -> LoRAConfig:
    assert rank is not None
    if config.alpha == 0:
        raise InvalidConfigError("The adapters have alpha=0, and no update of the new one can have an effect.")
    return config.replace(r=rank)


def _of_updates(modules: Sequence[nn.Module], weights: Sequence[float], config: LoRAConfig) -> dict[str, torch.Tensor]:
    return decomposed(_plain_loras(modules, DECOMPOSED.name), weights, config.r, config.alpha / config.r)


def decomposed(
    modules: Sequence[LoRA], weights: Sequence[float], rank: int, scaling: float
) -> dict[str, torch.Tensor]:
    """A and B of `rank` whose update, times `scaling`, is nearest to the weighted sum of the updates.

    A has orthonormal rows. Where the update is too small for the rank, the rest is zero.
    """
    with torch.no_grad():
        deltas = [weighted_sum(parts, weights) for parts in zip(*(module.deltas() for module in modules), strict=True)]
    downs, ups = [], []
    for delta in deltas:
        left, sizes, right = torch.linalg.svd(delta.float(), full_matrices=False)
        missing = max(0, rank - len(sizes))
        up = left[:, :rank] * (sizes[:rank] / scaling)
        downs.append(nn.functional.pad(right[:rank], (0, 0, 0, missing)))
        ups.append(nn.functional.pad(up, (0, missing)))
    return {"lora_A": torch.cat(downs), "lora_B": torch.cat(ups)}


NEGATING_B = Averaging[LoRAConfig]("lora_linear_only_negate_b", "updates of LoRA", _adds, _negating_b)
DECOMPOSED = Averaging[LoRAConfig](
    "lora_delta_w_svd",
    "updates of LoRA",
    _adds,
    _of_updates,
    config=_with_rank,
    needs_rank=True,
    may_differ=frozenset({"r", "alpha"}),
)
