"""Which label a head that predicts words compares the logits of a position with: the next one, as a rule, or its own (XLNet).

And which positions: all, as a rule, or those that the attention mask has (Qwen2-Audio):

    labels[..., 1:][attention_mask[..., 1:] != 0]
    labels[..., 1:][attention_mask[:, -(logits.shape[1] - 1) :] != 0]     the end of a mask, which may be longer (Granite Speech)
"""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.plan.flow.values import How, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import last_name
from adapter_codegen.plan.heads.logits.slices import bounds, is_dots, is_whole, literal_bounds, parts

_LABELS = "labels"
_MASK = "attention_mask"
_RESHAPES = frozenset({"contiguous", "flatten", "long", "reshape", "to", "view"})


def compares_in_place(values: Sequence[Value]) -> bool:
    """Whether each loss that a head computes itself is of the labels as they are given. False where it computes none, or cuts them."""
    compared = [labels for value in values if (pair := _compared(value)) is not None for labels in pair[1:]]
    return bool(compared) and all(labels.op is Op.PARAMETER and labels.name == _LABELS for labels in compared)


def _compared(value: Value) -> tuple[Value, Value] | None:
    """The logits and labels of a call of a cross entropy, without changes of their form; None for any other value."""
    if value.op is Op.CALL and value.inputs and last_name(value.inputs[0]) == "CrossEntropyLoss":
        arguments = value.inputs[1:]
    elif value.op is Op.FUNCTION and last_name(value) == "cross_entropy":
        arguments = value.inputs
    else:
        return None
    logits = value.keyword("input") or (arguments[0] if arguments else None)
    labels = value.keyword("target") or (arguments[1] if len(arguments) > 1 else None)
    return None if logits is None or labels is None else (_unshaped(logits), _unshaped(labels))


def _unshaped(value: Value) -> Value:
    while value.op is Op.METHOD and last_name(value) in _RESHAPES:
        value = same_tensor(value.inputs[0])
    return value


def skips_padding(values: Sequence[Value]) -> bool | None:
    """Whether the losses that a head computes itself leave out what the attention mask does, where there is one.

    None where they pick positions in any other way. A position of the shifted labels counts as its label does: mask and labels must be cut
    alike, and the logits be those in front of them.
    """
    found = [_picks(*pair) for value in values if (pair := _compared(value)) is not None]
    return None if None in found else any(found)


def _picks(logits: Value, labels: Value) -> bool | None:
    """The same of one loss."""
    of_labels = [one for one in _alternatives(labels) if _is_picked(one)]
    of_logits = [one for one in _alternatives(logits) if _is_picked(one)]
    if not of_labels and not of_logits:
        return False
    cuts = [one.inputs[0] for one in of_logits]
    if len(of_labels) != 1 or len(of_logits) != 1 or cuts[0].op is not Op.ITEM or not _is_front(cuts[0].node):
        return None
    whole = _unshaped(same_tensor(cuts[0].inputs[0]))
    cut = of_labels[0].inputs[0]
    if cut.op is not Op.ITEM or not _is_shift(cut.node):
        return None
    return True if all(_is_by_mask(one.inputs[1], whole) for one in (*of_labels, *of_logits)) else None


def _alternatives(value: Value) -> tuple[Value, ...]:
    value = _unshaped(same_tensor(value))
    return tuple(one for choice in value.choices for one in _alternatives(choice)) if value.op is Op.JOIN else (value,)


def _is_picked(value: Value) -> bool:
    """``labels[mask]``: of a tensor, by a condition on numbers."""
    return value.op is Op.ITEM and len(value.inputs) == 2 and value.inputs[1].how is How.COMPARISON


def _is_by_mask(condition: Value, logits: Value) -> bool:
    """``mask[..., 1:] != 0``, of the attention mask, on whichever device; or of as much of its end as there are logits to compare."""
    test = condition.node
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1 or len(condition.inputs) != 2:
        return False
    is_nonzero = isinstance(test.comparisons[0].operator, cst.NotEqual) and condition.inputs[1].literal == "0"
    (mask,) = found if len(found := _alternatives(condition.inputs[0])) == 1 else (condition,)
    if not is_nonzero or mask.op is not Op.ITEM or same_tensor(mask.inputs[0]).name != _MASK:
        return False
    return _is_shift(mask.node) or _is_end(mask, logits)


def _is_end(mask: Value, logits: Value) -> bool:
    """``mask[:, -(logits.shape[1] - 1) :]``, of the logits [B, L, V]."""
    places = parts(mask.node)
    ends = bounds(places[1]) if len(places) == 2 and is_whole(places[0]) else None
    if ends is None or ends[0] is None or ends[1] is not None:
        return False
    start = mask.inputs[-1].inputs[0]
    count = start.inputs[0] if start.op is Op.UNARY and start.operator == "-" else start
    if count.op is not Op.BINARY or count.operator != "-" or count is start or count.inputs[1].literal != "1":
        return False
    length = count.inputs[0]
    shape = length.inputs[0] if length.op is Op.ITEM and length.index == "1" else None
    if shape is None or shape.op is not Op.ATTRIBUTE or shape.name != "shape":
        return False
    return _unshaped(same_tensor(shape.inputs[0])) is logits


def _is_front(node: cst.CSTNode) -> bool:
    """``x[..., :-1, :]`` and ``x[:, :-1, :]`` or ``x[:, :-1]``."""
    places = parts(node)
    if len(places) not in (2, 3) or not is_whole(places[0]) or not all(map(is_whole, places[2:])):
        return False
    return literal_bounds(places[1]) == (None, -1) and (len(places) == 3 or not is_dots(places[0]))


def _is_shift(node: cst.CSTNode) -> bool:
    """``x[..., 1:]`` and ``x[:, 1:]``."""
    places = parts(node)
    return len(places) == 2 and is_whole(places[0]) and literal_bounds(places[1]) == (1, None)
