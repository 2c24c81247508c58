"""Tensors of files that were written before upstream renamed a module: adapters outlive renames.

Upstream keeps, for each model whose modules it renamed, the rules by which it loads old checkpoints. The path of an adapter's
tensor begins with the path of the module that it sits in, so the same rules bring it up to date. They know modules with
weights only; where upstream dropped a module that had none (``layer.0.output``), a path is found by leaving that name out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import TypeVar

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.files.keys import FUSION_CONTAINER
from adapter_runtime.methods.table import CONTAINERS

Value = TypeVar("Value")  # what is named: a tensor, or what is said about one


def fit_names(
    tensors: Mapping[str, Value], expected: Iterable[str], model: AdaptedModel, prefix: str
) -> dict[str, Value]:
    """Name the tensors of a file as `model` does, as far as that can be told.

    Args:
        expected: the names that the model has for the adapter, head or fusion in the file.
        model: the model, whose class and submodels choose upstream's rules.
        prefix: its ``base_model_prefix``: a file may be from a bare base model, or from one with a head.
    """
    known = set(expected)
    fitted = fit_prefix(tensors, known, prefix)
    if fitted.keys() <= known:
        return fitted
    rules = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
    renamed = {apply_renamings(key, rules) if key not in known else key: tensor for key, tensor in fitted.items()}
    there = {path.removeprefix(f"{prefix}.") for path, _ in model.get_submodule("").named_modules()}
    candidates = [fitted, _without_dropped_modules(fitted, known, prefix, there)]
    if len(renamed) == len(fitted):
        renamed = fit_prefix(renamed, known, prefix)
        candidates += [renamed, _without_dropped_modules(renamed, known, prefix, there)]
    return max(candidates, key=lambda candidate: len(known & candidate.keys()))


def _without_dropped_modules(
    tensors: dict[str, Value], known: set[str], prefix: str, there: Container[str]
) -> dict[str, Value]:
    """Rename what differs from one free name of the model by modules in its path that the model has not.

    A key without one such name, or whose name two keys claim, stays as it is, and will be reported as unknown. So does one whose
    place the model has, without an adapter: nothing was dropped there, the adapter stood at another place.

    Args:
        there: paths of the modules of the model, without `prefix`.
    """
    free: dict[tuple[str, ...], list[str]] = {}
    for name in known - tensors.keys():
        free.setdefault(_tail(name), []).append(name)
    found = {}
    for key in tensors.keys() - known:
        names = [name for name in free.get(_tail(key), ()) if _is_shortened(name, key, prefix)]
        if len(names) == 1 and ".".join(_split(key.removeprefix(f"{prefix}."))[0]) not in there:
            found[key] = names[0]
    claims = Counter(found.values())
    return {found[key] if claims[found.get(key, "")] == 1 else key: tensor for key, tensor in tensors.items()}


def _tail(key: str) -> tuple[str, ...]:
    """What a path says about the adapter: its container, its name and the leaf, and the numbers on the way there."""
    place, tail = _split(key)
    return (*(name for name in place if name.isdigit()), "", *tail)


def _split(key: str) -> tuple[list[str], list[str]]:
    segments = key.split(".")
    held = CONTAINERS | {FUSION_CONTAINER}
    start = next((index for index, name in enumerate(segments) if name in held), len(segments))
    return segments[:start], segments[start:]


def _is_shortened(name: str, key: str, prefix: str) -> bool:
    """Whether the place in `name` is the place in `key` with some modules left out, but for the model's own prefix."""
    short, _ = _split(name.removeprefix(f"{prefix}."))
    place, _ = _split(key.removeprefix(f"{prefix}."))
    remaining = iter(place)
    return all(segment in remaining for segment in short)


def fit_prefix(tensors: Mapping[str, Value], expected: Iterable[str], prefix: str) -> dict[str, Value]:
    """Name tensors as the model does, whether the file was written from a bare base model or from one with a head.

    Args:
        prefix: ``base_model_prefix`` of the model.

    Returns:
        The tensors under their names in the file, without `prefix`, or with it: whichever the model knows most of.
    """
    known = set(expected)
    candidates = [
        dict(tensors),
        {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items()},
        {f"{prefix}.{key}": tensor for key, tensor in tensors.items()},
    ]
    return max(candidates, key=lambda candidate: len(known & candidate.keys()))
