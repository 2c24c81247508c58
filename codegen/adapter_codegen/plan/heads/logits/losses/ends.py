"""Losses of the last positions: an image stands before the text, and no label is of it (GIT).

num_image_tokens = ...
if shift_labels is None:                                  a caller of upstream's may have shifted the labels already
    shifted_logits = logits[:, num_image_tokens:-1, :]
    shift_labels = labels[:, 1:]
loss = self.loss_function(logits=shifted_logits, labels=None, shift_labels=shift_labels)

Whatever the number of an image's positions is, a cross entropy takes as many logits as labels, or raises. So those of B rows of M labels are the
logits of the last M positions, but for the very last one, as B (L - n - 1) = B (M - 1).
"""

from __future__ import annotations

import libcst as cst

from adapter_codegen.plan.flow.values import Op, Value, argument_behind, same_tensor
from adapter_codegen.plan.heads.logits.conditions import condition, missing
from adapter_codegen.plan.heads.logits.factors import before_methods
from adapter_codegen.plan.heads.logits.slices import bounds, integer, is_dots, is_whole, literal_bounds, parts

_SHIFTED = "shift_labels"
_LABELS = "labels"
_RESHAPES = frozenset({"contiguous", "float", "to"})
_OF_DICTS = frozenset({"get", "pop"})


def compares_end(loss: Value, logits: Value) -> bool:
    """Whether a call of upstream's ``loss_function`` compares the end of `logits`, [B, L, V], with as many labels, [B, M], shifted."""
    compared, shifted, given = (loss.keyword(name) for name in ("logits", _SHIFTED, _LABELS))
    if compared is None or shifted is None or (given is not None and not given.is_none):
        return False
    compared, shifted = same_tensor(compared), same_tensor(shifted)
    if shifted.op is Op.JOIN or compared.op is Op.JOIN:
        if not _is_for_want_of(shifted) or compared.node is not shifted.node or len(compared.inputs) != 2:
            return False
        compared, shifted = compared.inputs[0], shifted.inputs[0]
    compared, shifted = before_methods(compared, _RESHAPES), before_methods(shifted, _RESHAPES)
    if not _ends_before_last(compared) or not _starts_at_second(shifted):
        return False
    labels = argument_behind(before_methods(shifted.inputs[0], _RESHAPES))
    is_given = labels.op is Op.PARAMETER and labels.name == _LABELS and not labels.frame.depth
    return is_given and before_methods(compared.inputs[0], _RESHAPES) is before_methods(logits, _RESHAPES)


def _is_for_want_of(join: Value) -> bool:
    """Whether one of two values is there where a call gives no ``shift_labels``, which is the other."""
    test = condition(join)
    if test is None or missing(test) != _SHIFTED or len(join.inputs) != 2:
        return False
    given = argument_behind(join.inputs[1])
    if given.op is Op.METHOD and given.name in _OF_DICTS and len(given.inputs) == 3:
        owner, name, otherwise = given.inputs
        is_named = name.literal.strip("\"'") == _SHIFTED and otherwise.is_none
        return is_named and owner.op is Op.PARAMETER and owner.name.startswith("**")
    return given.op is Op.PARAMETER and given.name == _SHIFTED and not given.frame.depth


def _positions(value: Value) -> cst.BaseSlice | None:
    """The slice of positions of ``x[:, a:b]`` and ``x[:, a:b, :]``; None where `value` is anything else."""
    places = parts(value.node) if value.op is Op.ITEM else []
    if len(places) not in (2, 3) or any(map(is_dots, places)) or not all(map(is_whole, (places[0], *places[2:]))):
        return None
    return places[1]


def _ends_before_last(value: Value) -> bool:
    """``x[:, a:-1]``, wherever it starts."""
    found = _positions(value)
    ends = bounds(found) if found is not None else None
    return ends is not None and integer(ends[1]) == -1


def _starts_at_second(value: Value) -> bool:
    """``x[:, 1:]``"""
    found = _positions(value)
    return found is not None and literal_bounds(found) == (1, None)
