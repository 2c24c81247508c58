"""Sums of two sublayers that upstream hands on to a function which adds: ``f += a`` under a condition, then ``add(f, r)``.

Where the condition does not hold, the function adds `f` alone, and `a` was added before. No host could stand at the argument,
which is the output of one sublayer in some models and the sum of two in others. So one stands at each term, where either
of the two is made: the adapters of a sublayer get its output, whichever way that goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors
from adapter_codegen.plan.stream.additions.lifted import Lifted
from adapter_codegen.plan.stream.additions.work import operand_nodes, work_behind
from adapter_codegen.plan.stream.conditions import are_exclusive


@dataclass(frozen=True, eq=False)
class Term:
    """One of the two: what a sublayer gave, where it is made or added to the other, and the stream at this place."""

    value: Value
    branch: Value
    branch_node: cst.BaseExpression
    residual: Value


def sums_in(pair: Lifted, call: Value, scene: Scene) -> list[Value]:
    """What the branch may be that is the sum of what several sublayers gave."""
    found = (choice for choice in _choices(pair.branch) if choice.is_sum and choice.frame is call.frame)
    return [choice for choice in found if all(work_behind(operand, scene) is not None for operand in choice.inputs)]


def terms(pair: Lifted, call: Value, scene: Scene) -> tuple[Term, Term] | None:
    """Both terms, the one first that is added alone as well; None where the sum is not of this form.

    Of the values that the stream may be, those that the other term was added to already count only for calls in which the sum
    is not made: the conditions around both must exclude each other.
    """
    choices, sums = list(_choices(pair.branch)), sums_in(pair, call, scene)
    nodes = operand_nodes(sums[0]) if len(choices) == 2 and len(sums) == 1 else None
    if nodes is None:
        return None
    (total,) = sums
    (single,) = (choice for choice in choices if choice is not total)
    places = [place for place, operand in enumerate(total.inputs) if operand is single]
    node = single.node
    if len(places) != 1 or single.frame is not call.frame or not isinstance(node, cst.BaseExpression):
        return None
    other = total.inputs[1 - places[0]]
    streams = _streams_without(other, pair.residual, total, scene)
    if len(streams) != 1 or not all(_is_bound(pair, value, scene) for value in (single, total)):
        return None
    added = Term(total, other, nodes[1 - places[0]], streams[0])
    return Term(single, single, node, pair.residual), added


def _streams_without(term: Value, residual: Value, total: Value, scene: Scene) -> list[Value]:
    """What the stream may be where `total` is made; nothing where `term` may have been added to it before."""
    found = list(_choices(residual))
    before = [choice for choice in found if id(term) in ancestors(choice)]
    if not all(_are_exclusive(choice, total, scene) for choice in before):
        return []
    return [choice for choice in found if choice not in before]


def _choices(value: Value) -> Iterator[Value]:
    """What a value may be, each once, as it stands in the function: calls are not entered."""
    todo, seen = [value], set[int]()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.op is Op.JOIN:
            todo.extend(reversed(value.choices))
        else:
            yield value


def _are_exclusive(first: Value, second: Value, scene: Scene) -> bool:
    function = scene.facts.classes[second.frame.owner].functions[second.frame.function]
    if first.frame is not second.frame or first.statement is None or second.statement is None:
        return False
    return are_exclusive(first.statement, second.statement, function.node.body)


def _is_bound(pair: Lifted, value: Value, scene: Scene) -> bool:
    """Whether the name of the residual means the same in front of the statement that makes `value`."""
    name = pair.residual_node
    return isinstance(name, cst.Name) and scene.environment(value).get(name.value) is pair.residual
