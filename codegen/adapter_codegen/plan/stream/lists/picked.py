"""Hidden states out of which one of each row was picked: what they enter next has a position for a text, and not for a token."""

from __future__ import annotations

from collections.abc import Set

import libcst as cst

from adapter_codegen.model import StreamForm
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import integer
from adapter_codegen.plan.flow.values import Op, Value, alternatives, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, called, field_of_output, first_argument
from adapter_codegen.plan.stream.lists.sign import Sign

_STEPS = frozenset({Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.SCALE, Kind.LINEAR})
_SPREAD = frozenset({"unsqueeze", "expand", "contiguous"})  # one text for each row of a batch


def picked_on_the_way(first: Value, layer_calls: Set[int], kinds: Kinds) -> Sign | None:
    """What picks one state of each row, where all that enters a list came out of other layers so (X-CLIP's prompts of texts).

    Args:
        first: the hidden states in the call of a layer.
        layer_calls: ids of all calls of layers.
    """
    found = [_picked(one, layer_calls, kinds) for one in _entering(first, layer_calls)]
    return Sign(StreamForm.GATHERED, found[0].node) if found and all(found) and found[0] is not None else None


def _entering(first: Value, layer_calls: Set[int]) -> list[Value]:
    """The values that enter a list for the first time: not what its own layers gave."""
    return [one for one in alternatives(first) if id(one) not in layer_calls]


def _picked(value: Value, layer_calls: Set[int], kinds: Kinds) -> Value | None:
    """The place at which the positions of a row go, on a straight way back to a layer."""
    at = None
    while not _is_output(value := same_tensor(value), layer_calls):
        if value.op is Op.JOIN:
            ends = [_picked(one, layer_calls, kinds) for one in alternatives(value)] if at is None else []
            return ends[0] if ends and all(ends) else None
        before = _one_step(value, kinds, is_spread=at is None)
        if value.op is Op.ITEM and not value.index:
            if at is not None or not _picks_one(value):
                return None
            at = value
        if before is None:
            return None
        value = before
    return at


def _is_output(value: Value, layer_calls: Set[int]) -> bool:
    """Whether a value is what a layer gave; behind a loop, it may be what went in as well."""
    return any(id(one) in layer_calls for one in alternatives(value))


def _one_step(value: Value, kinds: Kinds, is_spread: bool) -> Value | None:
    """What `value` is made of, entry by entry; of views, those that put dimensions in front of what was picked."""
    if value.op in (Op.ITEM, Op.ATTRIBUTE):
        field = field_of_output(value)
        return field if field is not None else value.inputs[0] if value.op is Op.ITEM else None
    if value.op is Op.SUBMODULE:
        is_step = value.module is not None and kinds.of(value.module.classes) in _STEPS
        return first_argument(value) if is_step else None
    is_view = called(value, *CASTS, *(_SPREAD if is_spread else ()))
    return value.inputs[0] if is_view and value.inputs else None


def _picks_one(value: Value) -> bool:
    """``states[:, 0]`` and ``states[torch.arange(rows), last]``; a slice, or an index of each position, keeps positions."""
    elements = [part.slice for part in value.node.slice] if isinstance(value.node, cst.Subscript) else []
    if len(elements) != 2 or not isinstance(elements[1], cst.Index):
        return False
    given = value.inputs[1:]
    indices = given[0].inputs if len(given) == 1 and given[0].op is Op.TUPLE else given
    if isinstance(elements[0], cst.Slice):
        return bool(indices) and integer(indices[-1]) is not None
    return len(indices) == 2 and called(indices[0], "arange")
