"""What of a sequence a head reads: one position, or a mean of positions, and how many of these are real.

x[:, 0], x[rows, lengths]                the first, the last that is no padding, the end of the sequence, or others

x.mean(dim=1), torch.mean(x, dim=1)      the mean of all positions
x[:, 1:].mean(dim=1)                     of all but the first, where a learned token stands
x[:, 1 + self.config.n :].mean(dim=1)    and but those behind it, where others stand that are no patches either
torch.cat([x[:, 0], x[:, 1:].mean(dim=1)], dim=1)        the first and that mean, side by side

if attention_mask is None:               of those frames that come from samples which are no padding
    pooled = x.mean(dim=1)
else:
    mask = self.frames(x.shape[1], attention_mask)
    x[~mask] = 0
    pooled = x.sum(dim=1) / mask.sum(dim=1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.syntax import dotted_name, is_none
from adapter_codegen.plan.flow.values import How, Op, Value, alternatives, ancestors, same_tensor
from adapter_codegen.plan.heads.logits.conditions import condition
from adapter_codegen.plan.heads.logits.factors import config_field
from adapter_codegen.plan.heads.logits.slices import bounds, integer, is_whole
from adapter_codegen.plan.heads.logits.slices import parts as slices

FIRST, LAST, EOS = "first", "last", "eos"  # the rules of flexible heads
MEAN, REST, FRAMES = "mean", "rest", "frames"  # means
BOTH = "both"  # the first position, and beside it the mean of the rest
MEANS = frozenset({MEAN, REST, FRAMES, BOTH})
OTHERS = "others"  # positions that no flexible head reads
ASKED_FOR = "logits_to_keep"  # the caller chooses, of both heads

_MASK = "attention_mask"
_SUMS = frozenset({"sum", "cumsum"})


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
    if ASKED_FOR in names or (positions.how is How.SLICE and not positions.inputs):
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


@dataclass(frozen=True)
class Mean:
    """One vector for all positions of a tensor."""

    tensor: Value  # [B, L, H]
    rule: str
    skipped: str = ""  # field of the config that says how many positions behind the first it leaves out too; "" = none


class Averages:
    """Questions about means.

    Args:
        values: all of the forward, and of the forwards and methods that it calls.
    """

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = values

    def mean(self, value: Value) -> Mean | None:
        """`value`, if it is a mean over positions by a rule that flexible heads have."""
        if value.op is Op.JOIN:
            return self._of_frames(value)
        if value.op is Op.FUNCTION and value.name == "torch.cat":
            return self._beside_first(value)
        tensor = _reduced(value, "mean")
        if tensor is None:
            return None
        behind = same_tensor(tensor)
        skipped = _left_out(behind) if behind.op is Op.ITEM else None
        if skipped is not None:
            return Mean(behind.inputs[0], REST, skipped)
        return None if behind.op is Op.ITEM and not behind.index and len(behind.inputs) > 1 else Mean(tensor, MEAN)

    def _beside_first(self, joined: Value) -> Mean | None:
        """The first position with the mean of the rest behind it: ``torch.cat([first, mean], dim=1)``, or of the last dimension."""
        given, named = joined.inputs, dict(joined.keywords)
        dims = [*given[1:], *named.values()]
        parts = given[0].inputs if given and given[0].op is Op.TUPLE else ()
        if len(parts) != 2 or len(dims) != 1 or not {*named} <= {"dim", "axis"} or not _is_last_of_two(dims[0]):
            return None
        first, rest = same_tensor(parts[0]), self.mean(parts[1])
        if (
            rest is None
            or rest.rule != REST
            or position(first) != FIRST
            or not all(map(is_whole, slices(first.node)[2:]))
        ):
            return None
        is_same = same_tensor(first.inputs[0]) is same_tensor(rest.tensor)
        return Mean(rest.tensor, BOTH, rest.skipped) if is_same else None

    def _of_frames(self, join: Value) -> Mean | None:
        test = condition(join)
        if test is None or len(join.inputs) != 2 or not _is_missing_mask(test):
            return None
        whole, real = map(same_tensor, join.inputs)
        tensor = _reduced(whole, "mean")
        if tensor is None or real.op is not Op.BINARY or real.operator != "/":
            return None
        total = _reduced(same_tensor(real.inputs[0]), "sum")
        if total is None or _unpadded(total) is not same_tensor(tensor):
            return None
        makers = {one.name for one in ancestors(real.inputs[1]).values() if one.op is Op.HELPER and _takes_mask(one)}
        made = [value for value in self.values if value.frame.function in makers]
        return Mean(tensor, FRAMES) if counted_frames(made) else None


def _is_last_of_two(dimension: Value) -> bool:
    """``1`` and ``-1``"""
    inner = dimension.inputs[0] if dimension.op is Op.UNARY and dimension.operator == "-" else dimension
    return inner.op is Op.CONSTANT and inner.literal == "1"


def _reduced(value: Value, name: str) -> Value | None:
    """What `value` is the mean or sum of over its second dimension, and nothing else; None where it is none."""
    if value.op not in {Op.METHOD, Op.FUNCTION} or value.name.rpartition(".")[2] != name or not value.inputs:
        return None
    if value.op is Op.FUNCTION and value.name != f"torch.{name}":
        return None
    tensor, *positional = value.inputs
    named = dict(value.keywords)
    dimension = positional[0] if len(positional) == 1 and not named else named.get("dim") or named.get("axis")
    is_second = dimension is not None and dimension.op is Op.CONSTANT and dimension.literal == "1"
    others = {*named} - {"dim", "axis"}
    return tensor if is_second and not others and len(positional) + len(named) == 1 else None


def _left_out(item: Value) -> str | None:
    """ "" of ``x[:, 1:]`` and ``x[:, 1:, :]``, "n" of ``x[:, 1 + self.config.n :]``; None of anything else."""
    places = slices(item.node)
    if len(places) not in (2, 3) or not all(
        isinstance(one, cst.Slice) and is_whole(one) for one in (places[0], *places[2:])
    ):
        return None
    ends = bounds(places[1])
    if ends is None or ends[1] is not None:
        return None
    start = ends[0]
    if integer(start) == 1:
        return ""
    if not (isinstance(start, cst.BinaryOperation) and isinstance(start.operator, cst.Add)):
        return None
    return (config_field(dotted_name(start.right)) or None) if integer(start.left) == 1 else None


def _unpadded(value: Value) -> Value:
    """`value` before something was set to zero in it."""
    value = same_tensor(value)
    while value.op is Op.OTHER and value.how is How.ITEM_ASSIGNMENT and len(value.inputs) == 2:
        written = value.inputs[1]
        if written.op is not Op.CONSTANT or written.literal not in {"0", "0.0"}:
            break
        value = same_tensor(value.inputs[0])
    return value


def _is_missing_mask(test: cst.BaseExpression) -> bool:
    """``attention_mask is None``"""
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1 or dotted_name(test.left) != _MASK:
        return False
    return isinstance(test.comparisons[0].operator, cst.Is) and is_none(test.comparisons[0].comparator)


def _takes_mask(call: Value) -> bool:
    return any(_is_mask(one) for argument in call.inputs for one in alternatives(argument))


def _is_mask(value: Value) -> bool:
    return value.op is Op.PARAMETER and value.name == _MASK


def counted_frames(values: Iterable[Value]) -> str:
    """The method that is asked for the number of frames of as many samples as a mask has ones; "" without, or with several."""
    names = {value.name for value in values if value.op is Op.HELPER and value.inputs and _counts(value.inputs[0])}
    return names.pop() if len(names) == 1 else ""


def _counts(value: Value) -> bool:
    """``attention_mask.sum(-1)``, ``attention_mask.cumsum(dim=-1)[:, -1]``"""
    for found in alternatives(value):
        counted = found.inputs[0] if found.op is Op.ITEM else found
        counted = same_tensor(counted)
        if counted.op is not Op.METHOD or counted.name not in _SUMS:
            return False
        if not any(map(_is_mask, alternatives(counted.inputs[0]))):
            return False
    return True
