"""Which positions of a sequence a head reads: the first, the last that is no padding, the end of the sequence, or others."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from adapter_codegen.plan.flow.values import How, Op, Value, ancestors

FIRST, LAST, EOS = "first", "last", "eos"  # the rules of flexible heads
OTHERS = "others"  # positions that no flexible head reads
_ASKED_FOR = "logits_to_keep"  # the caller chooses, of both heads


def position(value: Value) -> str:
    """The position that ``x[:, ...]`` or ``x[rows, ...]`` reads; "" where it is another kind of item, or all positions."""
    if (
        value.op is not Op.ITEM
        or value.index
        or len(value.inputs) < 3
        or isinstance(value.inputs[1].node, cst.Ellipsis)
    ):
        return ""
    rows, positions = value.inputs[1:3]
    names = {origin.name for place in (rows, positions) for origin in ancestors(place).values()}
    if "eos_token_id" in names:
        return EOS
    if _ASKED_FOR in names or (positions.how is How.SLICE and not positions.inputs):
        return ""
    if positions.op is Op.CONSTANT and positions.literal == "0":
        return FIRST
    return LAST if "pad_token_id" in names else OTHERS


def rule(found: Iterable[str]) -> str:
    """What a head reads that picks positions in these steps: the last of the tokens that end a sequence is that token."""
    found = {*found} - {""}
    if EOS in found:
        return EOS
    return found.pop() if len(found) == 1 else OTHERS if found else ""
