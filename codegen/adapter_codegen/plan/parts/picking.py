"""What a model does around a part that reads tokens, where a prompt has no place among these.

It reads single positions of what the part returns: ``text_outputs[0][:, 0]``; or, of one row, those that it computes:
``self.text(tokens).last_hidden_state[0]``, then ``states[marks]``. Or it adds to the embeddings that it gives the part
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
    assigned = [found for node in nodes if (found := assignment(node)) is not None]
    returned = {dotted_name(target) for targets, value in assigned if _is_run(value, readers) for target in targets}
    rows = {dotted_name(target) for targets, value in assigned if _is_row(value, readers) for target in targets}
    for node in nodes:
        if not isinstance(node, cst.Subscript):
            continue
        is_of_all_rows = _is_one_position(node) and dotted_name(_start(node)) in returned - {""}
        if is_of_all_rows or (_is_computed(node) and dotted_name(node.value) in rows - {""}):
            yield node


def _is_run(value: cst.BaseExpression, readers: set[str]) -> bool:
    return isinstance(value, cst.Call) and dotted_name(value.func) in readers


def _is_row(value: cst.BaseExpression, readers: set[str]) -> bool:
    """``self.text(tokens).last_hidden_state[0]``: the states of one row. (Of a tuple, a number says which of its entries.)"""
    if not isinstance(value, cst.Subscript) or not isinstance(value.value, cst.Attribute) or len(value.slice) > 1:
        return False
    place = value.slice[0].slice
    is_number = isinstance(place, cst.Index) and isinstance(place.value, cst.Integer)
    return is_number and value.value.attr.value == "last_hidden_state" and _is_run(value.value.value, readers)


def _is_computed(node: cst.Subscript) -> bool:
    """``[marks - 1]``: neither a slice nor a number."""
    place = node.slice[0].slice
    return isinstance(place, cst.Index) and not isinstance(place.value, (cst.Integer, cst.UnaryOperation))


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
