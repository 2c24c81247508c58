"""IA3 in PEFT's format. There, factors of the feed-forward block stand at the input of its last projection."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.contract.widths import out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.peft_format import (
    PeftFile,
    PeftFormat,
    ProjectionPlace,
    Tensors,
    by_place,
    group_by_module,
    places,
    refuse_unknown,
    target_modules,
)
from adapter_runtime.methods.lora.config import IA3Config, LoRAConfig
from adapter_runtime.methods.lora.modules.scale import Scale
from adapter_runtime.methods.lora.peft.places import (
    adapted_projections,
    in_order,
    options_for,
    require_regular,
)

_KEY = re.compile(r"(?P<path>.+)\.(?P<leaf>ia3_l)$")


def read(model: AdaptedModel, saved: PeftFile) -> tuple[LoRAConfig, Tensors]:
    """The config and tensors that give the same outputs here as the adapter does in PEFT.

    Raises:
        UnsupportedMethodError: an option or a module has no counterpart here.
    """
    refuse_unknown(saved.document, ("feedforward_modules",), ("init_ia3_weights",))
    known = places(model)
    given = by_place(saved, group_by_module(saved.tensors, _KEY), known)
    factors = dict(_at_outputs(path, leaves["ia3_l"], known) for path, leaves in given.items())
    adapted = [known[path] for path in factors]
    layers = {place.layer_index for place in adapted}
    config = IA3Config(
        **options_for(adapted), leave_out=[index for index, _ in model.iter_layers() if index not in layers]
    )
    require_regular(known, factors, config)
    result = {f"{path}.loras.{saved.name}.lora_B": in_order(known[path], factor) for path, factor in factors.items()}
    return config, result


def _at_outputs(path: str, factor: torch.Tensor, known: Mapping[str, ProjectionPlace]) -> tuple[str, torch.Tensor]:
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


def write(model: AdaptedModel, name: str, config: LoRAConfig) -> tuple[dict[str, Json], Tensors]:
    """The document, without what all methods have, and the tensors by PEFT's names.

    Raises:
        UnsupportedMethodError: PEFT has no counterpart.
    """
    if config.use_gating:
        raise UnsupportedMethodError("PEFT's IA3 has no counterpart of a gate (use_gating=True).")
    known = adapted_projections(model, name)
    tensors = {}
    for path, (projection, adapter) in known.items():
        assert isinstance(adapter, Scale)
        whole = adapter.lora_B.new_ones(out_width(projection))
        pieces = torch.split(adapter.factor(), adapter.sizes)
        for (first, last), piece in zip(adapter.parts, pieces, strict=True):
            whole[first:last] = piece
        tensors[f"{path}.ia3_l"] = projection.grouped(whole).view(-1, 1)
    document: dict[str, Json] = {
        "peft_type": "IA3",
        "target_modules": target_modules(model, known),
        "feedforward_modules": [],  # all factors stand at outputs
        "fan_in_fan_out": any(projection.stored_transposed for projection, _ in known.values()),
        "init_ia3_weights": True,
    }
    return document, tensors


FORMAT = PeftFormat[LoRAConfig](
    peft_type="IA3",
    read=read,
    write=write,
    writes=lambda config: config.composition_mode == "scale",
    marks=(".ia3_l",),
)
