"""What stands in the brackets of ``x[..., :-1, :]``."""

from __future__ import annotations

import libcst as cst


def parts(node: cst.CSTNode) -> list[cst.BaseSlice]:
    """The indices and slices of a subscript, in order; none of any other code."""
    return [element.slice for element in node.slice] if isinstance(node, cst.Subscript) else []


def is_dots(part: cst.BaseSlice) -> bool:
    """``...``"""
    return isinstance(part, cst.Index) and isinstance(part.value, cst.Ellipsis)


def is_whole(part: cst.BaseSlice) -> bool:
    """``...`` or ``:``"""
    return is_dots(part) or (isinstance(part, cst.Slice) and not (part.lower or part.upper or part.step))


def bounds(part: cst.BaseSlice) -> tuple[cst.BaseExpression | None, cst.BaseExpression | None] | None:
    """Where a slice starts and ends, None = where its tensor does; None for one with a step, and for what is none."""
    if not isinstance(part, cst.Slice) or part.step is not None:
        return None
    return part.lower, part.upper


def integer(node: cst.CSTNode | None) -> int | None:
    """``1`` and ``-1``; None for anything else."""
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        inner = integer(node.expression)
        return None if inner is None else -inner
    return int(node.value, 0) if isinstance(node, cst.Integer) else None


def literal_bounds(part: cst.BaseSlice) -> tuple[int | None, int | None] | None:
    """The same as numbers; None where one of them is no literal."""
    found = bounds(part)
    if found is None:
        return None
    lower, upper = map(integer, found)
    is_literal = all(number is not None or end is None for number, end in zip((lower, upper), found, strict=True))
    return (lower, upper) if is_literal else None
