"""LoRA and DoRA in PEFT's format."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.contract.widths import out_width
from adapter_runtime.errors import AdapterFileError, UnsupportedMethodError
from adapter_runtime.methods.common.peft_format import (
    Document,
    PeftFile,
    PeftFormat,
    Tensors,
    by_place,
    group_by_module,
    one_value,
    places,
    refuse_unknown,
    target_modules,
)
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.modules.base import Parts, ProjectionAdapter
from adapter_runtime.methods.lora.modules.low_rank import LoRA
from adapter_runtime.methods.lora.peft.places import (
    adapted_projections,
    in_order,
    options_for,
    require_regular,
)

_READ = (
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "use_dora",
    "use_rslora",
)
_INERT = ("corda_config", "eva_config", "loftq_config", "megatron_core", "qalora_group_size", "runtime_config")
# Starts that leave the weights of the model as they are. Others (PiSSA, OLoRA, LoftQ, ...) take a part out of them, so that
# the adapter fits to a model that only PEFT can make.
_PLAIN_STARTS = (True, False, None, "eva", "gaussian", "orthogonal")

_KEY = re.compile(r"(?P<path>.+)\.(?P<leaf>lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?$")
_LEAVES = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_magnitude_vector": "m.weight"}


def read(model: AdaptedModel, saved: PeftFile) -> tuple[LoRAConfig, Tensors]:
    """The config and tensors that give the same outputs here as the adapter does in PEFT.

    Raises:
        UnsupportedMethodError: an option or a module has no counterpart here.
    """
    document = saved.document
    _check_options(document)
    known = places(model)
    modules = by_place(saved, group_by_module(saved.tensors, _KEY), known)
    ranks = {path: _rank(path, leaves) for path, leaves in modules.items()}
    rank = one_value(ranks, "rank")
    scaling = one_value({path: _scaling(document, path, rank) for path in modules}, "scaling")
    adapted = [known[path] for path in modules]
    layers = {place.layer_index for place in adapted}
    config = LoRAConfig(
        **options_for(adapted),
        r=rank,
        alpha=_plain(scaling * rank),
        dropout=document.get("lora_dropout") or 0.0,
        leave_out=[index for index, _ in model.iter_layers() if index not in layers],
        use_dora=bool(document.get("use_dora")),
    )
    require_regular(known, modules, config)
    result: Tensors = {}
    for path, leaves in modules.items():
        if known[path].projection.fused is not None:
            leaves = {**leaves, "lora_A": leaves["lora_A"].repeat(3, 1)}  # here each part has its own; PEFT has one
        for leaf, given in leaves.items():
            tensor = given if leaf == "lora_A" else in_order(known[path], given)
            own = tensor.view(-1, 1) if leaf == "lora_magnitude_vector" else tensor
            result[f"{path}.loras.{saved.name}.{_LEAVES[leaf]}"] = own
    return config, result


def _check_options(document: Document) -> None:
    refuse_unknown(document, _READ, _INERT)
    if document.get("bias", "none") != "none":
        raise UnsupportedMethodError(f"PEFT trained biases of the model too (bias={document['bias']!r}).")
    start = document.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise UnsupportedMethodError(
            f"The adapter was started by {start!r}, which changes the weights of the model. Let PEFT convert it:"
            " save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )


def _rank(path: str, leaves: Mapping[str, torch.Tensor]) -> int:
    if not {"lora_A", "lora_B"} <= leaves.keys():
        raise AdapterFileError(f"PEFT's file has only {', '.join(sorted(leaves))} of {path}.")
    return int(leaves["lora_A"].shape[0])


def _scaling(document: Document, path: str, rank: int) -> float:
    """What PEFT multiplies the update of a module by."""
    alpha = document.get("lora_alpha", 8)
    for pattern, value in (document.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = value
            break
    return float(alpha / math.sqrt(rank) if document.get("use_rslora") else alpha / rank)


def _plain(value: float) -> float:
    rounded = round(value)
    return rounded if math.isclose(value, rounded, rel_tol=1e-12) else value


def write(model: AdaptedModel, name: str, config: LoRAConfig) -> tuple[dict[str, Json], Tensors]:
    """The document, without what all methods have, and the tensors by PEFT's names.

    Raises:
        UnsupportedMethodError: PEFT has no counterpart.
    """
    _check_writable(config)
    known = adapted_projections(model, name)
    ranks, tensors = {}, {}
    for path, (projection, adapter) in known.items():
        assert isinstance(adapter, LoRA)
        down, up = joined(adapter.lora_A, adapter.lora_B, adapter.parts, out_width(projection), config.r)
        up = projection.grouped(up, dim=0)
        ranks[path] = int(down.shape[0])
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = down, up
        if adapter.m is not None:
            magnitude = _magnitude(adapter, adapter.m.weight, path)
            tensors[f"{path}.lora_magnitude_vector"] = projection.grouped(magnitude)
    wider = {path: rank for path, rank in ranks.items() if rank != config.r}
    targets = dict(zip(sorted(known), target_modules(model, known), strict=True))
    document: dict[str, Json] = {
        "peft_type": "LORA",
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "bias": "none",
        "use_dora": config.use_dora,
        "use_rslora": False,
        "init_lora_weights": True,
        "fan_in_fan_out": any(projection.stored_transposed for projection, _ in known.values()),
        "target_modules": list(targets.values()),
        "rank_pattern": {re.escape(targets[path]): rank for path, rank in wider.items()},
        "alpha_pattern": {re.escape(targets[path]): config.alpha * rank / config.r for path, rank in wider.items()},
    }
    return document, tensors


def _check_writable(config: LoRAConfig) -> None:
    for used, what in (
        (config.architecture != "lora", f"{type(config).__name__}"),
        (config.use_gating, "a gate (use_gating=True)"),
        (config.vera_d is not None, "VeRA's vectors (vera_d, vera_b)"),
        (config.use_dora and config.dora_form != "paper", f"DoRA in the form of {config.dora_form!r}"),
    ):
        if used:
            raise UnsupportedMethodError(f"PEFT's LoRA has no counterpart of {what}.")


def joined(
    down: torch.Tensor, up: torch.Tensor, parts: Parts, width: int, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One A and B for a projection of which n parts are adapted, each by an A and B of its own.

    Args:
        down: [n * r, I].
        up: [O, r], the parts one after the other.
        parts: the n spans of output features.
        width: P, all output features.
        rank: r.

    Returns:
        A [n * r, I] and B [P, n * r]: row block i of B reads the r columns of part i, and is 0 elsewhere.
    """
    if list(parts) == [(0, width)]:
        return down, up
    whole = up.new_zeros(width, rank * len(parts))
    start = 0
    for index, (first, last) in enumerate(parts):
        stop = start + last - first
        whole[first:last, index * rank : (index + 1) * rank] = up[start:stop]
        start = stop
    return down, whole


def _magnitude(adapter: ProjectionAdapter, magnitude: torch.Tensor, path: str) -> torch.Tensor:
    if not adapter.is_whole:
        raise UnsupportedMethodError(f"PEFT's DoRA rescales all outputs of {path}, but only a part is adapted here.")
    return magnitude.view(-1)


FORMAT = PeftFormat[LoRAConfig](
    peft_type="LORA", read=read, write=write, writes=lambda config: config.composition_mode == "add", marks=(".lora_",)
)
