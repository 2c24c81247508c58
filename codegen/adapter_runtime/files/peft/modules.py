"""PEFT says which modules are adapted, this library which roles are. Both ways, by the structure of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from adapter_runtime.errors import AdapterFileError, UnsupportedMethodError, listing
from adapter_runtime.files.loading.renames import fit_names
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.model.layer import LayerAdaptersMixin, Projection

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

Value = TypeVar("Value")


class Place(NamedTuple):
    """A projection that can be adapted."""

    layer_index: int
    layer: LayerAdaptersMixin
    projection: Projection
    module: Any


def places(model: ModelAdaptersMixin) -> dict[str, Place]:
    """All projections that have a role, by their path from `model`."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = {}
    for index, layer in model.adapters_base.adapted_layers():
        for projection in layer.adapted_projections():
            module = layer.module_at(projection.path, required=False)
            if module is not None:
                found[f"{paths[id(layer)]}.{projection.path}"] = Place(index, layer, projection, module)
    return found


def by_place(model: ModelAdaptersMixin, given: Mapping[str, Value], known: Mapping[str, Place]) -> dict[str, Value]:
    """What `given` holds by PEFT's module names, by the paths of `known`.

    Raises:
        UnsupportedMethodError: some of the modules have no role here.
    """
    found = fit_names(given, known, model, model.base_model_prefix)
    foreign = found.keys() - known.keys()
    if foreign:
        own = sorted({path.rpartition(".")[2] for path in known})
        raise UnsupportedMethodError(
            f"PEFT adapted modules that have no role here ({len(foreign)}):\n{listing(foreign)}\n"
            f"Adapters of this library can sit at: {', '.join(own)}. Train the adapter at these only."
        )
    return found


def options_for(found: Iterable[Place]) -> dict[str, Any]:
    """The options of a `LoRAConfig` that lead to the projections `found`, as far as options can tell them apart."""
    found = list(found)
    locations = {place.projection.location for place in found}
    matrices = {
        matrix
        for place in found
        if place.projection.location == "selfattn_lora"
        for matrix in ("qkv" if place.projection.fused is not None else place.projection.matrix)
    }
    options: dict[str, Any] = {
        location: location in locations
        for location in ("selfattn_lora", "intermediate_lora", "gate_lora", "output_lora")
    }
    return {**options, "attn_matrices": [matrix for matrix in "qkvo" if matrix in matrices] or ["q", "v"]}


def require_regular(known: Mapping[str, Place], given: Iterable[str], config: LoRAConfig) -> None:
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


def wants(config: LoRAConfig, place: Place) -> bool:
    """Whether `config` adapts the projection at `place`."""
    projection = place.projection
    if not config[projection.location] or place.layer_index in config.leave_out:
        return False
    if projection.location != "selfattn_lora":
        return True
    matrices = "qkv" if projection.fused is not None else projection.matrix
    return any(matrix in config.attn_matrices for matrix in matrices)


def one_value(values: Mapping[str, Value], what: str) -> Value:
    """The value that all modules have in common.

    Raises:
        UnsupportedMethodError: they differ.
        AdapterFileError: there are no modules.
    """
    if not values:
        raise AdapterFileError("The weights hold no adapted module.")
    distinct: dict[Value, str] = {}
    for path, value in values.items():
        distinct.setdefault(value, path)
    if len(distinct) > 1:
        shown = ", ".join(f"{value} ({path})" for value, path in distinct.items())
        raise UnsupportedMethodError(f"All modules of an adapter have one {what} here, but PEFT's differ: {shown}.")
    return next(iter(distinct))


def target_modules(model: ModelAdaptersMixin, paths: Iterable[str]) -> list[str]:
    """Paths from the base model, which PEFT finds in the base model and in any model around it."""
    return [path.removeprefix(f"{model.base_model_prefix}.") for path in sorted(paths)]
