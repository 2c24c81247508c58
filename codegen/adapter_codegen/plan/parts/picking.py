"""What a model does around a part that reads tokens, where a prompt has no place among these.

It reads single positions of what the part returns: ``text_outputs[0][:, 0]``. Or it adds to the embeddings that it gives the part
something of its own for each of them: ``inputs_embeds += audio_embeds``.
"""

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


def added_to_embeddings(root: ClassFacts, parts: Sequence[PartPlan]) -> cst.CSTNode | None:
    """Where a function of a class first adds a value that it computed to the embeddings that it calls such a part with.

    What is held by the model itself (``self.kind``) is no value for each token.
    """
    readers = {f"self.{part.path}" for part in parts if not part.reads or "tokens" in part.reads}
    functions = (function.node for function in root.functions.values())
    return next((found for function in functions for found in _added_in(function, readers)), None)


def _added_in(function: cst.FunctionDef, readers: set[str]) -> Iterator[cst.CSTNode]:
    nodes = list(descendants(function.body))
    given = {
        dotted_name(argument.value)
        for node in nodes
        if isinstance(node, cst.Call) and dotted_name(node.func) in readers
        for argument in node.args
        if argument.keyword is not None and argument.keyword.value == "inputs_embeds"
    } - {""}
    for node in nodes:
        addend = _addend(node, given)
        if addend is not None and not dotted_name(_called_on(addend)).startswith("self"):
            yield node


def _addend(node: cst.CSTNode, names: set[str]) -> cst.BaseExpression | None:
    """``y`` of ``x += y`` and of ``x = x + y``, where `names` has ``x``."""
    if isinstance(node, cst.AugAssign):
        is_sum = isinstance(node.operator, cst.AddAssign) and dotted_name(node.target) in names
        return node.value if is_sum else None
    found = assignment(node)
    if found is None or not isinstance(found[1], cst.BinaryOperation) or not isinstance(found[1].operator, cst.Add):
        return None
    name = dotted_name(found[1].left)
    return found[1].right if name in names and name in map(dotted_name, found[0]) else None


def _called_on(node: cst.BaseExpression) -> cst.BaseExpression:
    """``x.y`` of ``x.y.to(device)``."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        node = node.func.value
    return node


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
