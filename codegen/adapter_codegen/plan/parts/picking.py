"""Where a model reads single positions of what a part that reads tokens returns: ``text_outputs[0][:, 0]``. A prompt would stand there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from adapter_codegen.model import PartPlan
from adapter_codegen.parse.facts import ClassFacts
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name


def picked_position(root: ClassFacts, parts: Sequence[PartPlan]) -> cst.Subscript | None:
    """The first such place in the functions of a class."""
    readers = {f"self.{part.path}" for part in parts if not part.reads or "tokens" in part.reads}
    functions = (function.node for function in root.functions.values())
    return next((found for function in functions for found in _picked_in(function, readers)), None)


def _picked_in(function: cst.FunctionDef, readers: set[str]) -> Iterator[cst.Subscript]:
    nodes = list(descendants(function.body))
    returned = {
        dotted_name(target)
        for node in nodes
        if (found := assignment(node)) is not None and _is_run(found[1], readers)
        for target in found[0]
    } - {""}
    for node in nodes:
        if isinstance(node, cst.Subscript) and _is_one_position(node) and dotted_name(_start(node)) in returned:
            yield node


def _is_run(value: cst.BaseExpression, readers: set[str]) -> bool:
    return isinstance(value, cst.Call) and dotted_name(value.func) in readers


def _is_one_position(node: cst.Subscript) -> bool:
    """``[:, 0]`` or ``[:, -1, :]``: all rows, and one position by its number."""
    if len(node.slice) < 2 or not isinstance(node.slice[0].slice, cst.Slice):
        return False
    second = node.slice[1].slice
    number = second.value if isinstance(second, cst.Index) else None
    return isinstance(number.expression if isinstance(number, cst.UnaryOperation) else number, cst.Integer)


def _start(node: cst.BaseExpression) -> cst.BaseExpression:
    """``text_outputs`` of ``text_outputs.hidden_states[-1][:, 0]``."""
    while isinstance(node, cst.Subscript) or (
        isinstance(node, cst.Attribute) and not isinstance(node.value, cst.Name)
    ):
        node = node.value
    return node.value if isinstance(node, cst.Attribute) else node
