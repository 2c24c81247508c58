"""Submodules as the facts of a file tell of them."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.parse.facts import FunctionFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import assigned_attributes, assignment, descendants, dotted_name, self_attribute

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


def held_function(facts: ModuleFacts, classes: Sequence[str], name: str) -> str:
    """The function of the file that a module holds as its attribute `name`; "" where that may be anything else.

    ``self.core = sample`` in the constructor of each of `classes`, and nothing else in the file sets an attribute of that name.
    """
    known = [facts.classes.get(local_class(class_name)) for class_name in classes]
    inits = {id(init.node): init for one in known if one and (init := one.functions.get("__init__"))}
    held = {_held(init, name, facts) for init in inits.values()}
    function = held.pop() if len(held) == 1 and None not in known else ""
    if not function or len(list(assigned_attributes(facts.tree, name))) != len(inits):
        return ""
    return function


def _held(init: FunctionFacts, name: str, facts: ModuleFacts) -> str:
    """The name of a function of the file, where a constructor gives that to an attribute, once."""
    nodes = list(descendants(init.node))
    values = [given[1] for node in nodes if (given := assignment(node)) and _is_of_self(given[0], name)]
    function = dotted_name(values[0]) if len(values) == 1 else ""
    if function not in facts.functions:
        return ""
    # The one name of it but those of attributes: no parameter or local variable has it.
    attributes = {id(node.attr) for node in nodes if isinstance(node, cst.Attribute)}
    named = [
        node for node in nodes if isinstance(node, cst.Name) and node.value == function and id(node) not in attributes
    ]
    return function if len(named) == 1 else ""


def _is_of_self(targets: Sequence[cst.BaseExpression], name: str) -> bool:
    return len(targets) == 1 and self_attribute(targets[0]) == name
