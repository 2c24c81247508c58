"""IA3 in PEFT's format. There, factors of the feed-forward block stand at the input of its last projection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.files.peft.documents import Document, refuse_unknown
from adapter_runtime.files.peft.modules import (
    Place,
    by_place,
    options_for,
    places,
    require_regular,
    target_modules,
)
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.methods.lora.config import IA3Config, LoRAConfig
from adapter_runtime.methods.lora.peft import group_by_module, stores_transposed
from adapter_runtime.model.layer import out_width

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

_KEY = re.compile(r"(?P<path>.+)\.(?P<leaf>ia3_l)$")


def read(model: ModelAdaptersMixin, document: Document, tensors: Tensors, name: str) -> tuple[LoRAConfig, Tensors]:
    """The config and tensors of adapter `name` that give the outputs of PEFT's.

    Raises:
        UnsupportedMethodError: an option or a module has no counterpart here.
    """
    refuse_unknown(document, ("feedforward_modules",), ("init_ia3_weights",))
    known = places(model)
    given = by_place(model, group_by_module(tensors, _KEY), known)
    factors = dict(_at_outputs(path, leaves["ia3_l"], known) for path, leaves in given.items())
    adapted = [known[path] for path in factors]
    layers = {place.layer_index for place in adapted}
    config = IA3Config(
        **options_for(adapted), leave_out=[index for index, _ in model.iter_layers() if index not in layers]
    )
    require_regular(known, factors, config)
    return config, {f"{path}.loras.{name}.lora_B": factor for path, factor in factors.items()}


def _at_outputs(path: str, factor: torch.Tensor, known: dict[str, Place]) -> tuple[str, torch.Tensor]:
    """Path and factors [O, 1] of the projection whose outputs are scaled.

    Raises:
        UnsupportedMethodError: the inputs of a projection are scaled, and no outputs are proportional to them.
    """
    if factor.shape[1] == 1:
        return path, factor
    place = known[path]
    roles = place.layer.roles.mlp
    gated = all(place.layer.module_at(gate, required=False) is not None for gate in roles.gate) and roles.gate
    if place.projection.path in roles.last and gated and len(roles.first) == len(roles.last) == 1:
        # Their input is act(gate(x)) * first(x): a factor of it is a factor of the outputs of the first projection.
        return f"{path.removesuffix(roles.last[0])}{roles.first[0]}", factor.reshape(-1, 1)
    raise UnsupportedMethodError(
        f"PEFT scales the inputs of {path}. Here outputs are scaled, and there are none that these inputs are"
        " proportional to: between them and the projection before lies an activation or a sum. Train without"
        " feedforward_modules."
    )


def write(model: ModelAdaptersMixin, name: str, config: LoRAConfig) -> tuple[dict[str, Any], Tensors]:
    """The document, without what all methods have, and the tensors by PEFT's names.

    Raises:
        UnsupportedMethodError: PEFT has no counterpart.
    """
    if config.use_gating:
        raise UnsupportedMethodError("PEFT's IA3 has no counterpart of a gate (use_gating=True).")
    known = {path: place for path, place in places(model).items() if name in getattr(place.module, "loras", ())}
    tensors = {}
    for path, place in known.items():
        adapter = place.module.loras[name]
        whole = adapter.lora_B.new_ones(out_width(place.module))
        pieces = torch.split(adapter.factor(), adapter.sizes)
        for (first, last), piece in zip(adapter.parts, pieces, strict=True):
            whole[first:last] = piece
        tensors[f"{path}.ia3_l"] = whole.view(-1, 1)
    document = {
        "peft_type": "IA3",
        "target_modules": target_modules(model, known),
        "feedforward_modules": [],  # all factors stand at outputs
        "fan_in_fan_out": stores_transposed(known),
        "init_ia3_weights": True,
    }
    return document, tensors
