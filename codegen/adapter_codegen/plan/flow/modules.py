"""Submodules as the facts of a file tell of them."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_codegen.parse.facts import ModuleFacts, Submodule


def local_class(name: str) -> str:
    """The last part of a class as written: ``nn.Linear`` -> ``Linear``."""
    return name.rpartition(".")[2]


def find_submodule(facts: ModuleFacts, classes: Sequence[str], name: str) -> Submodule | None:
    """The submodule of that name of the first of `classes` that has one."""
    for candidate in classes:
        known = facts.classes.get(local_class(candidate))
        if known is not None and name in known.submodules:
            return known.submodules[name]
    return None
