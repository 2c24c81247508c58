"""One projection with adapters of the LoRA family, and what they compute in plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapter_runtime.composition import Stack
from adapter_runtime.methods.common.shared_parameters import SharedDict
from adapter_runtime.methods.lora.config import (
    DoRAConfig,
    DvoRAConfig,
    IA3Config,
    LoRAConfig,
    MTLLoRAConfig,
    VeraConfig,
)
from adapter_runtime.methods.lora.layer import enable_lora
from adapter_runtime.methods.lora.modules.factory import is_vera
from adapter_runtime.methods.lora.modules.vera import add_shared_matrices

I, P = 6, 12
FAMILY: dict[str, LoRAConfig] = {
    "lora": LoRAConfig(r=2, alpha=6),
    "ia3": IA3Config(alpha=3),
    "dora": DoRAConfig(r=2, alpha=6),
    "dora as in adapters": DoRAConfig(r=2, alpha=6, dora_form="adapters"),
    "vera": VeraConfig(r=2, alpha=6),
    "dvora": DvoRAConfig(r=2, alpha=6),
    "mtl": MTLLoRAConfig(r=2, alpha=6, n_up_projection=3, weights_sharpness=0.5),
    "mtl linear": MTLLoRAConfig(r=2, alpha=6, n_up_projection=2, task_specific_matrix_type="linear"),
    "mtl with magnitudes": MTLLoRAConfig(r=2, alpha=6, use_dora=True),
}
ADDING = [name for name, config in FAMILY.items() if config.composition_mode == "add" and not config.use_dora]
PARTS = {"whole": [(0, P)], "q, v": [(0, 6), (9, 12)], "k": [(6, 9)], "q, k, v": [(0, 6), (6, 9), (9, 12)]}


def conv1d() -> Conv1D:
    module = Conv1D(P, I)
    nn.init.normal_(module.bias)
    return module


KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(I, P),
    "linear without bias": lambda: nn.Linear(I, P, bias=False),
    "conv1d": conv1d,
}


def adapt(module: nn.Module, parts: Any, *configs: LoRAConfig) -> Any:
    """`module` with adapters "a0", "a1" ... of random weights."""
    layer = enable_lora(module, 3, "selfattn_lora_q", fused=len(parts) > 1)
    generator = torch.Generator().manual_seed(5)
    for index, config in enumerate(configs):
        shared = SharedDict() if is_vera(config) else None
        if shared is not None:
            add_shared_matrices(shared, config, [layer.site(parts)], layer.weight)
        layer.add_adapter(f"a{index}", config, parts, shared)
        for parameter in [*layer.loras[f"a{index}"].parameters(), *(shared or {}).values()]:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.5
    return layer.eval()


def active(layer: Any, block: Any) -> Any:
    layer.activate(Stack(block) if isinstance(block, str) else block, frozenset())
    return layer


def weight_of(module: Any) -> torch.Tensor:
    weight: torch.Tensor = module.weight
    return weight.T if isinstance(module, Conv1D) else weight


def low_rank_of(adapter: Any, part: int, span: tuple[int, int], row: int) -> torch.Tensor:
    """``B A`` of one part, written out from the parameters."""
    size, rows = span[1] - span[0], slice(2 * part, 2 * part + 2)
    config = adapter.config
    product: torch.Tensor
    if isinstance(config, MTLLoRAConfig):
        count = config.n_up_projection
        ups = adapter.lora_B[:, row : row + size]
        weights = (adapter.weights[part * count : (part + 1) * count] / config.weights_sharpness).exp()
        up = sum(weight / weights.sum() * matrix for weight, matrix in zip(weights, ups, strict=True))
        values = adapter.task_specific.values[rows]
        matrix = torch.diag(values) if values.dim() == 1 else values
        product = up @ matrix.T @ adapter.lora_A[rows]
    elif is_vera(config):
        shared = adapter.shared
        b, d = torch.diag(adapter.vera_B[row : row + size]), torch.diag(adapter.vera_D[rows])
        product = b @ shared["lora_B"][:size] @ d @ shared["lora_A"][:, :I]
    else:
        product = adapter.lora_B[row : row + size] @ adapter.lora_A[rows]
    return product


def written_out(layer: Any, adapter: Any, parts: Any, x: torch.Tensor) -> torch.Tensor:
    """The adapted output in plain torch, by a new weight and bias."""
    weight = weight_of(layer).clone()
    bias = torch.zeros(P) if layer.bias is None else layer.bias.clone()
    scaling, row = adapter.config.alpha / adapter.config.r, 0
    for part, (start, stop) in enumerate(parts):
        rows = slice(row, row + stop - start)
        if adapter.config.composition_mode == "scale":
            factor = adapter.lora_B[rows, 0] * scaling
            weight[start:stop] *= factor[:, None]
            bias[start:stop] *= factor
        else:
            product = low_rank_of(adapter, part, (start, stop), row)
            norm = (weight[start:stop] + product * (1.0 if adapter.config.dora_form == "adapters" else scaling)).norm(
                dim=1
            )
            weight[start:stop] += scaling * product
            if adapter.config.use_dora:
                factor = adapter.m.weight[rows, 0] / norm
                weight[start:stop] *= factor[:, None]
                if adapter.config.dora_form == "adapters":
                    bias[start:stop] *= factor
        row += stop - start
    return x @ weight.T + bias
