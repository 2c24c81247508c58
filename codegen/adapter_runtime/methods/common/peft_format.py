"""What the formats of PEFT have in common: the JSON, and the way from PEFT's names of modules to roles and back.

A method lists its formats in its `MethodSpec`; ``files/formats/peft.py`` and ``files/saving/peft.py`` read and write the folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from torch import nn

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedLayer, AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterFileError, UnsupportedMethodError, listing
from adapter_runtime.methods.common.projections import Projection, projections_of

Document: TypeAlias = Mapping[str, Any]  # JSON: what is in there is for the reader to find out
Tensors: TypeAlias = dict[str, torch.Tensor]
C = TypeVar("C", bound=AdapterConfig)
Value = TypeVar("Value")


class FitNames(Protocol):
    """Renames the keys of a file to those of the model: upstream may have renamed modules, and prefixes may differ."""

    def __call__(self, given: Mapping[str, Value], known: Iterable[str]) -> dict[str, Value]: ...


@dataclass(frozen=True)
class PeftFile:
    """An adapter of PEFT's, as it was read from a folder."""

    document: Document  # ``adapter_config.json``
    tensors: Tensors  # of the adapter, named as in the model that PEFT wrapped
    name: str  # of the adapter in the model
    strict: bool  # refuse what can be loaded but gives other outputs
    fit_names: FitNames


@dataclass(frozen=True)
class PeftFormat(Generic[C]):
    """One of PEFT's methods."""

    peft_type: str  # "LORA"
    # The config and tensors that give the outputs of PEFT's adapter, or raises UnsupportedMethodError or AdapterFileError
    read: Callable[[AdaptedModel, PeftFile], tuple[C, Tensors]]
    # The document, without what all methods have, and the tensors by PEFT's names, or raises UnsupportedMethodError
    write: Callable[[AdaptedModel, str, C], tuple[dict[str, Json], Tensors]]
    writes: Callable[[C], bool]  # whether an adapter with these options is written in this format
    marks: tuple[str, ...]  # parts of names that only tensors of adapters have
    is_prompt: bool = False  # PEFT wraps the model once for prompts, and twice where it adapts modules

    def check_model(self, model: AdaptedModel) -> None:
        """Raise where PEFT would run an adapter of this format in another way than this model does.

        Raises:
            UnsupportedMethodError: it would.
        """
        base = model.adapters_base
        if self.is_prompt and any(part is not base for part in base.adapter_parts().values()):
            raise UnsupportedMethodError(
                f"PEFT gives prompts and prefixes to a model as one, but {type(base).__name__} is made of several models, of which each has"
                " its own. LoRA and its relatives can have PEFT's format here."
            )


# Options of all methods that say nothing about what is computed. Which modules were adapted shows in the tensors, so the
# patterns by which they were chosen (a list, a regular expression, "all-linear") need not be read.
INERT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",  # the tensors show it
        "peft_type",
        "peft_version",
        "revision",
        "target_modules",
        "task_type",
    }
)


def refuse_unknown(document: Document, read: Sequence[str], inert: Sequence[str]) -> None:
    """Raise for options that are set and that nobody here knows the meaning of.

    Args:
        read: those that the caller reads.
        inert: those that change nothing once there are tensors: how they were initialised, for example.

    Raises:
        UnsupportedMethodError: there are such.
    """
    known = {*INERT, *read, *inert}
    given = {name: value for name, value in sorted(document.items()) if name not in known and value}
    if given:
        shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise UnsupportedMethodError(
            f"The {document.get('peft_type')} adapter of PEFT has options that have no counterpart here: {shown}."
        )


class ProjectionPlace(NamedTuple):
    """A projection of a model that can be adapted."""

    layer_index: int
    layer: AdaptedLayer
    projection: Projection
    module: nn.Module


def places(model: AdaptedModel) -> dict[str, ProjectionPlace]:
    """All projections that have a role, by their path from `model`."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = {}
    for index, layer in model.adapters_base.adapted_layers():
        for projection in projections_of(layer):
            module = layer.module_at(projection.path, required=False)
            if module is not None:
                place = ProjectionPlace(index, layer, projection, module)
                found[f"{paths[id(layer)]}.{projection.path}"] = place
    return found


def by_place(saved: PeftFile, given: Mapping[str, Value], known: Mapping[str, ProjectionPlace]) -> dict[str, Value]:
    """The values of `given`, whose keys are PEFT's module names, by the paths of `known`.

    Raises:
        UnsupportedMethodError: some of the modules have no role here.
    """
    found = saved.fit_names(given, known)
    foreign = found.keys() - known.keys()
    if foreign:
        own = sorted({path.rpartition(".")[2] for path in known})
        raise UnsupportedMethodError(
            f"PEFT adapted modules that have no role here ({len(foreign)}):\n{listing(foreign)}\n"
            f"Adapters of this library can sit at: {', '.join(own)}. Train the adapter at these only."
        )
    return found


def group_by_module(tensors: Tensors, pattern: re.Pattern[str]) -> dict[str, Tensors]:
    """Tensors by the path of their module and by their name in it: the groups "path" and "leaf" of `pattern`.

    Raises:
        UnsupportedMethodError: there are tensors of another kind.
    """
    modules: dict[str, Tensors] = {}
    foreign = []
    for key, tensor in tensors.items():
        match = pattern.match(key)
        if match is None:
            foreign.append(key)
        else:
            modules.setdefault(match["path"], {})[match["leaf"]] = tensor
    if foreign:
        raise UnsupportedMethodError(f"PEFT's file has tensors without a counterpart here:\n{listing(foreign)}")
    return modules


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


def target_modules(model: AdaptedModel, paths: Iterable[str]) -> list[str]:
    """Paths from the base model, which PEFT finds in the base model and in any model around it."""
    return [path.removeprefix(f"{model.base_model_prefix}.") for path in sorted(paths)]
