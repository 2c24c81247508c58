"""Tensors that are joined along a dimension: streams that go through a sublayer together, and pieces of one stream.

TimeSformer cuts the stream into a class token and patches, attends to the patches over time, and puts both together again. Then each
piece is a part of the stream, and what is done to any of them is done to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import libcst as cst

from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, JOINING, VIEWS, called, last_name

# What the same text gives again from the same.
_REPEATABLE = frozenset({Op.CONSTANT, Op.UNARY, Op.BINARY, Op.ATTRIBUTE, Op.ITEM, Op.OTHER})


def joined_streams(value: Value) -> tuple[Value, ...]:
    """``torch.cat([words, entities], dim=1)``: what is joined; () for all else."""
    joined = value.op is Op.FUNCTION and last_name(value) in JOINING and value.inputs
    return value.inputs[0].inputs if joined and value.inputs[0].op is Op.TUPLE else ()


def pieces(value: Value) -> tuple[Value, ...]:
    """The parts that are joined where the first is a piece of something, so that the others stand for the rest of it; () for all else."""
    parts = joined_streams(value)
    first = same_tensor(parts[0]) if parts else None
    while first is not None and called(first, *VIEWS, *CASTS) and first.inputs:
        first = same_tensor(first.inputs[0])
    return parts if first is not None and isinstance(first.node, cst.Subscript) and first.op is Op.ITEM else ()


def is_same_piece(piece: Value, values: Iterable[Value]) -> bool:
    """Whether one of `values` is the same part of the same tensor, cut out a second time: ``x[:, 1:]``.

    What a call gave beside it (``mixed, streams, weights = self.connection(x)``) is another tensor.
    """
    cuts = (value for value in values if value.op is Op.ITEM and value.index == piece.index)
    return piece.op is Op.ITEM and any(
        same_tensor(cut.inputs[0]) is same_tensor(piece.inputs[0]) and are_same(cut.inputs[1:], piece.inputs[1:])
        for cut in cuts
    )


def are_same(these: Sequence[Value], those: Sequence[Value]) -> bool:
    """Whether values are computed in the same way from the same."""
    return len(these) == len(those) and all(map(_is_same, these, those))


def _is_same(one: Value, other: Value) -> bool:
    one, other = same_tensor(one), same_tensor(other)
    is_repeated = one.op in _REPEATABLE and one.op is other.op and one.node.deep_equals(other.node)
    return one is other or (is_repeated and are_same(one.inputs, other.inputs))
