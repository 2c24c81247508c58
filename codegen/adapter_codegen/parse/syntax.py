"""Small questions about libcst nodes that several parts ask. None needs metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import cache

import libcst as cst

# Layout, of which no rule asks anything, and half of all nodes. A field is left out when its name begins so.
_LAYOUT_FIELDS = ("whitespace", "leading_lines", "lines_after_decorators", "trailing_whitespace", "header", "footer")


def dotted_name(node: cst.CSTNode | None) -> str:
    """``nn.Linear`` of a name or an attribute of names; "" for any other expression."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if not isinstance(node, cst.Name):
        return ""
    return ".".join([node.value, *reversed(parts)])


def self_attribute(node: cst.CSTNode | None) -> str:
    """``layers`` of ``self.layers``; "" for anything else, ``self.a.b`` included."""
    if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name) and node.value.value == "self":
        return node.attr.value
    return ""


def literal_string(node: cst.CSTNode | None) -> str | None:
    """The value of a plain string; None for f-strings, bytes and everything else."""
    if not isinstance(node, cst.SimpleString | cst.ConcatenatedString):
        return None
    value = node.evaluated_value
    return value if isinstance(value, str) else None


def literal_keys(node: cst.CSTNode | None) -> Iterator[str]:
    """The keys of a display of a dict that are plain strings."""
    for element in node.elements if isinstance(node, cst.Dict) else ():
        if isinstance(element, cst.DictElement) and (key := literal_string(element.key)) is not None:
            yield key


def is_none(node: cst.CSTNode | None) -> bool:
    return isinstance(node, cst.Name) and node.value == "None"


def is_docstring(node: cst.CSTNode) -> bool:
    """Whether a line is a string by itself."""
    if not isinstance(node, cst.SimpleStatementLine) or len(node.body) != 1:
        return False
    return isinstance(node.body[0], cst.Expr) and isinstance(
        node.body[0].value, cst.SimpleString | cst.ConcatenatedString
    )


def is_inherited(called: cst.BaseExpression, name: str) -> bool:
    """``super().forward``, for `name` = "forward"."""
    owner = called.value if isinstance(called, cst.Attribute) and called.attr.value == name else None
    return isinstance(owner, cst.Call) and dotted_name(owner.func) == "super" and not owner.args


def statements(body: cst.BaseSuite) -> Iterator[cst.BaseSmallStatement | cst.BaseCompoundStatement]:
    """The statements of a block, with those that share a line taken apart; bodies of compound ones are not entered."""
    for statement in body.body:
        if isinstance(statement, cst.SimpleStatementLine):
            yield from statement.body
        elif isinstance(statement, cst.BaseCompoundStatement | cst.BaseSmallStatement):  # small in "if x: y"
            yield statement


def assignment(node: cst.CSTNode) -> tuple[tuple[cst.BaseExpression, ...], cst.BaseExpression] | None:
    """Targets and value of ``a = b = value`` or ``a: T = value``; None for any other statement."""
    if isinstance(node, cst.Assign):
        return tuple(target.target for target in node.targets), node.value
    if isinstance(node, cst.AnnAssign) and node.value is not None:
        return (node.target,), node.value
    return None


def assigned_attributes(node: cst.CSTNode, name: str) -> Iterator[cst.Attribute]:
    """The targets of assignments below a node that are an attribute `name` of anything, also as one of several: ``a.x, b = f()``."""
    for inner in descendants(node):
        found = assignment(inner)
        pending = list(found[0]) if found is not None else [inner.target] if isinstance(inner, cst.AugAssign) else []
        while pending:
            target = pending.pop()
            if isinstance(target, cst.Attribute) and target.attr.value == name:
                yield target
            elif isinstance(target, cst.Tuple | cst.List):
                pending += [element.value for element in target.elements]


def descendants(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`node` and all nodes below it but white space, outer ones first, the parts of an expression as they are written.

    A visitor of libcst builds every node that it passes anew; this only looks, in a fraction of the time.
    """
    pending: list[object] = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, cst.CSTNode):
            yield item
            pending.extend([getattr(item, name) for name in _inner_fields(type(item))][::-1])
        elif isinstance(item, list | tuple):
            pending.extend(item[::-1])


@cache
def _inner_fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    if kind is cst.IfExp:  # the one expression whose fields stand in another order than its text
        return ("lpar", "body", "test", "orelse", "rpar")
    return tuple(field.name for field in fields(kind) if not field.name.startswith(_LAYOUT_FIELDS))
