"""Which label a head that predicts words compares the logits of a position with: the next one, as a rule, or its own (XLNet)."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import last_name

_LABELS = "labels"
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
