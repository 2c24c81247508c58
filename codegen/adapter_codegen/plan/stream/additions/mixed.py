"""Hyper-connections: several streams beside each other, which a module of upstream's mixes before and after each sublayer.

That module reads the streams, and gives the mix that the sublayer reads together with the weights by which its output is spread
over the streams: ``post * f(x) + comb @ streams``. No operand of such a sum is an earlier value of one stream. The adapters get
what came out of the sublayer, before it is weighed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, VIEWS, called, first_argument
from adapter_codegen.plan.stream.additions.work import operand_nodes, work_behind


@dataclass(frozen=True, eq=False)
class Mixed:
    """What a sum of weighed streams is made of."""

    weighed: Value  # the product of the branch and its weights
    branch: Value
    branch_node: cst.BaseExpression
    connection: Value  # the call that gave the weights, and what the sublayer read
    streams: Value  # that it was given


def mixed(value: Value, scene: Scene) -> Mixed | None:
    """The parts of a sum, where it spreads the output of a sublayer over several streams."""
    for spread, kept in (value.inputs, value.inputs[::-1]):
        weighed = _plain(spread)
        for found in _branches(weighed, scene):
            streams = _streams(_plain(kept), found.connection)
            if streams is not None and found.weighed.frame is value.frame:
                return found
    return None


def _branches(weighed: Value, scene: Scene) -> Iterator[Mixed]:
    """The factors of a product that came out of a sublayer, which read something of the call that gave the other factor."""
    nodes = operand_nodes(weighed) if weighed.op is Op.BINARY and weighed.operator == "*" else None
    if nodes is None:
        return
    for index in (0, 1):
        connection = _output_of(_plain(weighed.inputs[1 - index]))
        branch, node = _unviewed(weighed.inputs[index], nodes[index])
        streams = first_argument(connection) if connection is not None else None
        work = work_behind(branch, scene)
        if connection is None or streams is None or work is None or _output_of(branch) is connection:
            continue
        is_read = any(value.op is Op.ITEM and value.inputs[0] is connection for value in ancestors(branch).values())
        if is_read and isinstance(node, cst.Name):
            yield Mixed(weighed, branch, node, connection, streams)


def _streams(kept: Value, connection: Value) -> Value | None:
    """The streams that go on: given back by the connection, or what it was given, mixed by a matrix of its own."""
    if _output_of(kept) is connection:
        return kept
    if not (called(kept, "matmul", "bmm") or (kept.op is Op.BINARY and kept.operator == "@")) or len(kept.inputs) != 2:
        return None
    matrix, streams = kept.inputs
    given = first_argument(connection)
    is_same = given is not None and same_tensor(streams) is same_tensor(given)
    return streams if is_same and _output_of(_plain(matrix)) is connection else None


def _output_of(value: Value) -> Value | None:
    """The call of a module of which a value is one of several outputs."""
    value = value.inputs[0] if value.op is Op.ITEM else value
    return value if value.op is Op.SUBMODULE else None


def _plain(value: Value) -> Value:
    """`value` without views and casts."""
    while called(value, *VIEWS, *CASTS) and value.op is Op.METHOD:
        value = value.inputs[0]
    return value


def _unviewed(value: Value, node: cst.BaseExpression) -> tuple[Value, cst.BaseExpression]:
    """The same for a value and the expression that gives it."""
    while called(value, *VIEWS, *CASTS) and isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        value, node = value.inputs[0], node.func.value
    return value, node
