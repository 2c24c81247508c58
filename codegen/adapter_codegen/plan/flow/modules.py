"""Submodules as the facts of a file tell of them."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.parse.facts import FunctionFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import dotted_name

_AUTOGRAD = frozenset({"torch.autograd.Function", "torch.autograd.function.Function"})


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


def applied(facts: ModuleFacts, name: str) -> FunctionFacts | None:
    """The forward of a function with a gradient of its own, called as ``XSoftmax.apply``; None where the file has no such class."""
    known = facts.classes.get(name.removesuffix(".apply")) if name.endswith(".apply") else None
    if known is None or not any(facts.origin(base) in _AUTOGRAD for base in known.lineage):
        return None
    return known.functions.get("forward")


def called_function(facts: ModuleFacts, node: cst.Call) -> cst.FunctionDef | None:
    """The function of the file that a call runs, if it names one: ``f(x)``, ``F.apply(x)``."""
    name = dotted_name(node.func)
    forward = applied(facts, name)
    return facts.functions.get(name) if forward is None else forward.node
