"""A tree without its layout, to compare code token for token: what black may change is left out, all else is kept."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache

import libcst as cst

# White space, comments and the marks that black adds, moves or takes away.
_LAYOUT = (
    cst.BaseParenthesizableWhitespace,
    cst.TrailingWhitespace,
    cst.EmptyLine,
    cst.Comma,
    cst.Semicolon,
    cst.LeftParen,
    cst.RightParen,
    cst.MaybeSentinel,
)
_LAYOUT_FIELDS = {
    "indent",
    "start",
    "end",
    "leading_lines",
    "lines_after_decorators",
    "header",
    "footer",
    "lpar",
    "rpar",
}


def shape(node: cst.CSTNode) -> list[str]:
    """The code below `node` as a list of tokens in prefix notation."""
    return list(_tokens(node))


def _tokens(node: object) -> Iterator[str]:
    if isinstance(node, (cst.IndentedBlock, cst.SimpleStatementSuite)):
        yield from ("block", *_each(_statements(node.body)), "end")
    elif isinstance(node, cst.AugAssign) and isinstance(node.operator, cst.AddAssign):
        yield from _tokens(_as_assignment(node))
    elif isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString):
        yield inspect.cleandoc(str(node.value.evaluated_value))  # a docstring: black indents and trims it
    elif isinstance(node, cst.SimpleString):
        yield repr(node.evaluated_value)
    elif isinstance(node, (cst.Integer, cst.Float, cst.Imaginary)):
        yield node.value.lower()
    elif isinstance(node, cst.CSTNode):
        yield type(node).__name__
        for name in _meaningful_fields(type(node)):
            yield from _tokens(getattr(node, name))
    elif isinstance(node, (list, tuple)):
        yield from (f"[{len(node)}", *_each(node))
    else:
        yield str(node)


def _each(nodes: Sequence[object]) -> Iterator[str]:
    for node in nodes:
        if not isinstance(node, _LAYOUT):
            yield from _tokens(node)


def _statements(body: Sequence[cst.CSTNode]) -> list[cst.CSTNode]:
    """The statements of a block; several on one line count as on a line each."""
    found: list[cst.CSTNode] = []
    for statement in body:
        found += statement.body if isinstance(statement, cst.SimpleStatementLine) else [statement]
    return found


def _as_assignment(node: cst.AugAssign) -> cst.Assign:
    return cst.Assign([cst.AssignTarget(node.target)], cst.BinaryOperation(node.target, cst.Add(), node.value))


@cache
def _meaningful_fields(kind: type[cst.CSTNode]) -> tuple[str, ...]:
    names = (field.name for field in fields(kind))
    return tuple(
        name
        for name in names
        if name not in _LAYOUT_FIELDS and not name.startswith(("whitespace", "comma", "semicolon"))
    )
