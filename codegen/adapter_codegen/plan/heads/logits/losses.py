"""Which label a head that predicts words compares the logits of a position with: the next one, as a rule, or its own (XLNet).

And which positions: all, as a rule, or those that the attention mask has (Qwen2-Audio):

    labels[..., 1:][attention_mask[..., 1:] != 0]
"""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.plan.flow.values import How, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import last_name

_LABELS = "labels"
_MASK = "attention_mask"
_RESHAPES = frozenset({"contiguous", "flatten", "long", "reshape", "to", "view"})


def compares_in_place(values: Sequence[Value]) -> bool:
    """Whether each loss that a head computes itself is of the labels as they are given. False where it computes none, or cuts them."""
    compared = [labels for value in values if (labels := _labels(value)) is not None]
    return bool(compared) and all(labels.op is Op.PARAMETER and labels.name == _LABELS for labels in compared)


def _labels(value: Value) -> Value | None:
    """What a call of a cross entropy compares with, without changes of its form; None for any other value."""
    if value.op is Op.CALL and value.inputs and last_name(value.inputs[0]) == "CrossEntropyLoss":
        arguments = value.inputs[1:]
    elif value.op is Op.FUNCTION and last_name(value) == "cross_entropy":
        arguments = value.inputs
    else:
        return None
    labels = value.keyword("target") or (arguments[1] if len(arguments) > 1 else None)
    while labels is not None and labels.op is Op.METHOD and last_name(labels) in _RESHAPES:
        labels = same_tensor(labels.inputs[0])
    return labels


def skips_padding(values: Sequence[Value]) -> bool | None:
    """Whether the losses that a head computes itself leave out what the attention mask does, where there is one.

    None where they pick positions in any other way. A position of the shifted labels counts as its label does: mask and labels must be cut
    alike.
    """
    compared = [labels for value in values if (labels := _labels(value)) is not None]
    picked = [one for labels in compared for one in _alternatives(labels) if _is_picked(one)]
    if not all(_is_by_mask(one) for one in picked):
        return None
    return bool(picked)


def _alternatives(value: Value) -> tuple[Value, ...]:
    value = same_tensor(value)
    while value.op is Op.METHOD and last_name(value) in _RESHAPES:
        value = same_tensor(value.inputs[0])
    return tuple(one for choice in value.choices for one in _alternatives(choice)) if value.op is Op.JOIN else (value,)


def _is_picked(value: Value) -> bool:
    """``labels[mask]``: of a tensor, by a condition on numbers."""
    return value.op is Op.ITEM and len(value.inputs) == 2 and value.inputs[1].how is How.COMPARISON


def _is_by_mask(value: Value) -> bool:
    """``labels[..., 1:][mask[..., 1:] != 0]``, of the attention mask, on whichever device."""
    cut, condition = value.inputs
    test = condition.node
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1 or len(condition.inputs) != 2:
        return False
    target = test.comparisons[0]
    is_nonzero = isinstance(target.operator, cst.NotEqual) and condition.inputs[1].literal == "0"
    (mask,) = found if len(found := _alternatives(condition.inputs[0])) == 1 else (condition,)
    if not is_nonzero or cut.op is not Op.ITEM or mask.op is not Op.ITEM:
        return False
    return _is_shift(cut.node) and _is_shift(mask.node) and same_tensor(mask.inputs[0]).name == _MASK


def _is_shift(node: cst.CSTNode) -> bool:
    """``x[..., 1:]`` and ``x[:, 1:]``."""
    if not isinstance(node, cst.Subscript) or len(node.slice) != 2:
        return False
    last = node.slice[1].slice
    start = last.lower if isinstance(last, cst.Slice) and last.upper is None and last.step is None else None
    return isinstance(start, cst.Integer) and start.value == "1"
