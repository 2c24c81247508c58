"""Flags of a module that decide, once for all its calls, whether a statement of its forward is reached.

``if self.channel_attention:`` stands around a sublayer that a layer has or has not, as its constructor was told. What is
reached only there needs no place in a layer without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import assignment, descendants, self_attribute
from adapter_codegen.plan.flow.values import Frame


@dataclass(frozen=True, order=True)
class Flag:
    """An attribute that a test reads, and whether it must be true."""

    name: str
    is_true: bool


def flags_around(statement: cst.CSTNode, frame: Frame, facts: ModuleFacts) -> frozenset[Flag]:
    """The flags of the module of `frame` without which its function does not reach `statement`."""
    known = facts.classes.get(frame.class_name)
    function = known.functions.get(frame.function) if known is not None else None
    if function is None:
        return frozenset()
    tests = _tests_around(statement, function.node.body) or ()
    found = {flag for test, holds in tests if (flag := _flag(test, holds)) is not None}
    return frozenset(flag for flag in found if _is_set_once(flag.name, frame.class_name, facts))


def _tests_around(statement: cst.CSTNode, node: cst.CSTNode) -> tuple[tuple[cst.BaseExpression, bool], ...] | None:
    """The tests of the ``if`` statements between `node` and a statement in it, each with its outcome; None: it is not in it."""
    if node is statement:
        return ()
    for part, outcome in _parts(node):
        inner = _tests_around(statement, part)
        if inner is not None:
            return (*outcome, *inner)
    return None


def _parts(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, Sequence[tuple[cst.BaseExpression, bool]]]]:
    if isinstance(node, cst.If):
        yield node.body, [(node.test, True)]
        if node.orelse is not None:
            yield node.orelse, [(node.test, False)]
    else:
        yield from ((part, ()) for part in node.children)


def _flag(test: cst.BaseExpression, holds: bool) -> Flag | None:
    """``self.name`` or ``not self.name``; of a conjunction or a comparison nothing is known here."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        return _flag(test.expression, not holds)
    name = self_attribute(test)
    return Flag(name, holds) if name else None


def _is_set_once(name: str, class_name: str, facts: ModuleFacts) -> bool:
    """Whether the constructor of a class sets an attribute, and nothing else in the file one of that name."""
    init = facts.classes[class_name].functions.get("__init__")
    ours = [] if init is None else list(_assigned(init.node, name))
    if not any(self_attribute(target) == name for target in ours):
        return False
    inits = [found.node for known in facts.classes.values() if (found := known.functions.get("__init__"))]
    own = {id(target) for node in inits for target in _assigned(node, name) if self_attribute(target)}
    return all(id(target) in own for target in _assigned(facts.tree, name))


def _assigned(node: cst.CSTNode, name: str) -> Iterator[cst.BaseExpression]:
    """The targets of assignments below a node that are an attribute `name` of anything."""
    for inner in descendants(node):
        found = assignment(inner)
        augmented = (inner.target,) if isinstance(inner, cst.AugAssign) else ()
        for target in found[0] if found is not None else augmented:
            if isinstance(target, cst.Attribute) and target.attr.value == name:
                yield target
