"""Submodules as the facts of a file tell of them."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

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


def is_written_out(submodule: Submodule) -> bool:
    """``nn.ModuleList()`` that is appended to, or ``nn.ModuleList([A(), B()])``: the classes are in order."""
    if not submodule.in_list or len(submodule.classes) < 2:
        return False
    return not any(
        isinstance(argument.value, (cst.ListComp, cst.GeneratorExp)) or argument.star
        for argument in submodule.arguments
    )
