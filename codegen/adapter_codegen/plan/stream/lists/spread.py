"""Tokens that stand at several positions each: what enters a list is as long as was computed (frames of FastSpeech2's sounds)."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from adapter_codegen.model import StreamForm
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.layout import integer
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import called, is_scalar, operand, track
from adapter_codegen.plan.stream.lists.sign import Sign


def spread_out(value: Value, kinds: Kinds) -> Sign | None:
    """``repeat_interleave(x, durations, dim=1)``, in a model's forward or in a function of its file which works row by row."""
    found = (one for one in _inside(value, kinds) if _repeats_positions(one))
    return Sign(StreamForm.SPREAD, value.node) if next(found, None) is not None else None


def _inside(value: Value, kinds: Kinds) -> Iterator[Value]:
    """A value; of what a function of the file gives, all that its contents came from."""
    yield value
    if value.op is Op.FUNCTION and value.through is not None:
        yield from track(value.through, kinds)


def _repeats_positions(value: Value) -> bool:
    """Whether each position is repeated as often as a tensor says; not each head or row, nor all equally often."""
    repeated, counts, dim = operand(value), operand(value, 1, "repeats"), operand(value, 2, "dim")
    if (
        not called(value, "repeat_interleave")
        or repeated is None
        or counts is None
        or dim is None
        or is_scalar(counts)
    ):
        return False
    return integer(dim) in (1, -2) or (integer(dim) == 0 and _is_row(repeated))


def _is_row(value: Value) -> bool:
    """``for row in rows``: what a loop over a batch gives."""
    element = same_tensor(value)
    return element.op is Op.ITEM and not isinstance(element.node, cst.Subscript)
