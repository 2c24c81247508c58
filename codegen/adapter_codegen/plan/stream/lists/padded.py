"""Positions that a model's forward puts beside those of its input, and takes away again behind the layers: padding to a multiple.

An edit at the last positions would fall on them. Where such a stream is one of tokens, these come first (`of_tokens`); else nothing
counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from adapter_codegen.model import StreamForm
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.layout import integer
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Op, Value, alternatives, same_tensor
from adapter_codegen.plan.flow.walks import called, field_of_output, first_argument, is_cut, operand
from adapter_codegen.plan.stream.lists.of_tokens import Towards, contents_of
from adapter_codegen.plan.stream.lists.sign import Sign


def padded_on_the_way(calls: Sequence[Value], towards: Towards) -> Sign | None:
    """What pads the positions that enter a list, or that entered the one in front of it whose stream goes on.

    Args:
        calls: of the layers of the list.
    """
    first = first_argument(calls[0]) if calls else None
    found = _padding(first, towards, frozenset()) if first is not None else None
    return Sign(StreamForm.PADDED, found.node) if isinstance(found, Value) else None


class _Again:
    """The walk came to where it had been: a loop says nothing of what entered it."""


def _padding(value: Value, towards: Towards, seen: frozenset[int]) -> Value | _Again | None:
    """What pads the positions of a value, on every way to it: where only some sounds are padded, others are edited (Phi-4)."""
    value = same_tensor(value)
    if id(value) in seen:
        return _Again()
    if _pads_positions(value):
        return value
    is_choice = value.op is Op.JOIN
    ways = [
        _padding(one, towards, seen | {id(value)}) for one in (value.choices if is_choice else _before(value, towards))
    ]
    known = [one for one in ways if not isinstance(one, _Again)]
    if ways and not known:
        return _Again()
    return (
        next(iter(known), None)
        if is_choice and all(known)
        else next(filter(None, known), None) if not is_choice else None
    )


def _pads_positions(value: Value) -> bool:
    """``pad(x, (0, 0, 0, n))``: not the width, and not both sides of a grid's two dimensions (its windows are taken apart in layers)."""
    counts = operand(value, 1, "pad") if called(value, "pad") else None
    if counts is None or counts.op is not Op.TUPLE or len(counts.inputs) != 4:
        return False
    left, right, *positions = (integer(count) for count in counts.inputs)
    return left == right == 0 and any(count != 0 for count in positions)


def _before(value: Value, towards: Towards) -> Sequence[Value]:
    """What a value has its positions from. A slice may have taken some away."""
    if id(value) in towards.layer_calls or _adds_to_positions(value, towards):
        first = first_argument(value)
        return () if first is None else (first,)
    if value.op in (Op.ITEM, Op.ATTRIBUTE) and (field := field_of_output(value)) is not None:
        return (field,)
    return () if _is_sliced(value) or is_cut(value) else contents_of(value, towards.kinds)


def _is_sliced(value: Value) -> bool:
    """``x[:, :n]``"""
    if value.op is not Op.ITEM or not isinstance(value.node, cst.Subscript):
        return False
    slices = [part.slice for part in value.node.slice if isinstance(part.slice, cst.Slice)]
    return any(part.lower is not None or part.upper is not None for part in slices)


def _adds_to_positions(value: Value, towards: Towards) -> bool:
    """Whether a module that the flow did not enter gives its argument with something added to it: embeddings of positions."""
    if value.op is not Op.SUBMODULE or value.module is None or towards.kinds.of(value.module.classes) is not Kind.WORK:
        return False
    names = [name for name in map(local_class, value.module.classes) if name in towards.facts.classes]
    return bool(names) and all(_is_sum_with_first(name, towards) for name in names)


def _is_sum_with_first(class_name: str, towards: Towards) -> bool:
    try:
        flow = trace(towards.facts, class_name)
    except TooLarge:
        return False
    parameters = list(towards.facts.classes[class_name].functions["forward"].parameters) if flow is not None else []
    given = flow.returned if flow is not None else None
    own = next((name for name in parameters if name != "self"), "")
    return given is not None and all(own in _summands(one) for one in alternatives(given))


def _summands(value: Value) -> Iterator[str]:
    """The arguments of a forward that a value is, or that are added to something."""
    value = same_tensor(value)
    if value.op is Op.PARAMETER:
        yield value.name
    for part in value.inputs if value.is_sum else value.choices if value.op is Op.JOIN else ():
        yield from _summands(part)
