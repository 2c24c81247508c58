"""Which layers show every kind of layer that a model has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

Signature = frozenset


def signature(module: nn.Module) -> Signature:
    """What tells one kind of layer from another: classes within it, their settings that are words or switches, and numbers that one
    has and another has not (a window).

    How many alike a list within has is none of it: a stage of six blocks is one of two.
    """
    return frozenset(
        (re.sub(r"\b\d+\b", "*", path), type(child).__qualname__, *sorted(_settings(child)))
        for path, child in module.named_modules()
    )


def _settings(module: nn.Module) -> Iterator[tuple[str, object]]:
    for name, value in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        if isinstance(value, (str, bool)):
            yield name, str(value)
        elif value is None or isinstance(value, (int, float)):
            yield name, "none" if value is None else "a number"


def kinds(model: nn.Module) -> dict[str, list[Signature]]:
    """Path of each list of modules -> the signature of each of its elements. Lists within layers stand for themselves."""
    found: dict[str, list[Signature]] = {}
    for path, module in model.named_modules():
        if (
            isinstance(module, nn.ModuleList)
            and len(module)
            and not any(path.startswith(f"{outer}.") for outer in found)
        ):
            found[path] = [frozenset() if child is None else signature(child) for child in module]
    return found


def first_of_each(signatures: list[Signature]) -> list[int]:
    """The first place of every kind."""
    return [place for place, entry in enumerate(signatures) if entry not in signatures[:place]]


def shown(model: nn.Module) -> dict[str, set[Signature]]:
    return {path: set(entries) for path, entries in kinds(model).items()}
