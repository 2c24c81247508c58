"""From the modules that PEFT adapts to the roles that options of a `LoRAConfig` choose, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

import torch

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import UnsupportedMethodError, listing
from adapter_runtime.methods.common.peft_format import ProjectionPlace, places
from adapter_runtime.methods.common.projections import groups_at
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.layer import LoRALayer
from adapter_runtime.methods.lora.modules.base import ProjectionAdapter


class PlaceOptions(TypedDict):
    """The options of a `LoRAConfig` that say where it adapts."""

    selfattn_lora: bool
    intermediate_lora: bool
    gate_lora: bool
    output_lora: bool
    mixer_lora: bool
    mixer_output_lora: bool
    attn_matrices: list[str]


def options_for(found: Iterable[ProjectionPlace]) -> PlaceOptions:
    """The options that lead to the projections `found`, as far as options can tell them apart."""
    found = list(found)
    locations = {place.projection.location for place in found}
    matrices = {
        matrix
        for place in found
        if place.projection.location == "selfattn_lora"
        for matrix in ("qkv" if place.projection.fused is not None else place.projection.matrix)
    }
    return PlaceOptions(
        selfattn_lora="selfattn_lora" in locations,
        intermediate_lora="intermediate_lora" in locations,
        gate_lora="gate_lora" in locations,
        output_lora="output_lora" in locations,
        mixer_lora="mixer_lora" in locations,
        mixer_output_lora="mixer_output_lora" in locations,
        attn_matrices=[matrix for matrix in "qgkvo" if matrix in matrices] or ["q", "v"],
    )


def in_order(place: ProjectionPlace, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor [P, ...] over the outputs of a projection, as adapters see them."""
    groups = groups_at(place.layer, place.projection)
    return tensor if groups is None else groups.in_order(tensor, dim=0)


def require_regular(known: Mapping[str, ProjectionPlace], given: Iterable[str], config: LoRAConfig) -> None:
    """Raise where the adapted projections are not the same ones in every adapted layer.

    Raises:
        UnsupportedMethodError: some are missing.
    """
    missing = {path for path, place in known.items() if wants(config, place)} - set(given)
    if missing:
        raise UnsupportedMethodError(
            "PEFT adapted other modules in some layers or attentions than in others. Here the same roles are adapted"
            f" wherever there are any. Missing from the file ({len(missing)}):\n{listing(missing)}"
        )


def wants(config: LoRAConfig, place: ProjectionPlace) -> bool:
    """Whether `config` adapts the projection at `place`."""
    projection = place.projection
    if not config[projection.location] or place.layer_index in config.leave_out:
        return False
    if projection.location != "selfattn_lora":
        return True
    matrices = "qkv" if projection.fused is not None else projection.matrix
    return any(matrix in config.attn_matrices for matrix in matrices)


def adapted_projections(model: AdaptedModel, name: str) -> dict[str, tuple[LoRALayer, ProjectionAdapter]]:
    """The projections that the adapter `name` lives in, each with its module, by their paths from `model`."""
    found = {}
    for path, place in places(model).items():
        layer = place.module
        if isinstance(layer, LoRALayer) and name in layer.loras:
            adapter = layer.loras[name]
            assert isinstance(adapter, ProjectionAdapter)
            found[path] = (layer, adapter)
    return found
