"""Logits of which a class keeps the first ones, since its projection pads the vocabulary (Inkling).

logits[..., : self.config.size]                  as many as a field of the config says

size = self.config.size                          the same: a slice ends where its tensor does, and that to None is all of it
if size is not None and size < logits.shape[-1]:
    logits = logits[..., :size]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.flow.values import How, Op, Value, argument_behind
from adapter_codegen.plan.heads.logits.conditions import is_given
from adapter_codegen.plan.heads.logits.factors import Factors, before_methods
from adapter_codegen.plan.heads.logits.slices import is_dots, is_whole, parts

_KEEPING = frozenset({"contiguous", "float", "to", "type_as"})


@dataclass(frozen=True)
class Cut:
    """The first of the last dimension of a tensor."""

    tensor: Value
    key: str  # the field of the config that says how many; "" = that is not known
    node: cst.CSTNode


class Cuts:
    """Questions about slices of the last dimension.

    Args:
        values: all of the forward.
    """

    def __init__(self, values: Iterable[Value], factors: Factors) -> None:
        self.factors = factors
        self.comparisons: Mapping[int, Value] = {id(one.node): one for one in values if one.how is How.COMPARISON}

    def cut(self, value: Value) -> Cut | None:
        """`value`, if it is a part of the last dimension of a tensor: ``x[..., a:b]``, ``x[:, :, a:b]``."""
        if (
            value.op is not Op.ITEM
            or value.index
            or len(value.inputs) < 3
            or not isinstance(value.node, cst.Subscript)
        ):
            return None
        *others, last = parts(value.node)
        if not isinstance(last, cst.Slice) or is_whole(last) or not (is_dots(others[0]) or len(others) > 1):
            return None
        is_first = last.lower is None and last.step is None and all(map(is_whole, others))
        return Cut(value.inputs[0], self.factors.key(value.inputs[-1].inputs[0]) if is_first else "", value.node)

    def is_idle(self, test: cst.BaseExpression, cut: Cut) -> bool:
        """Whether a cut leaves nothing out where a condition does not hold, so that it may stand without the condition."""
        return all(self._is_of(one, cut) for one in _all_of(test))

    def _is_of(self, test: cst.BaseExpression, cut: Cut) -> bool:
        """``size is not None``, or ``size < x.shape[-1]`` of the tensor that is cut to it."""
        compared = self.comparisons.get(id(test))
        if compared is None or not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
            return False
        if self.factors.key(compared.inputs[0]) != cut.key:
            return False
        if is_given(test):
            return True
        is_less = isinstance(test.comparisons[0].operator, cst.LessThan | cst.LessThanEqual)
        width = argument_behind(compared.inputs[1])
        shape = width.inputs[0] if width.op is Op.ITEM and width.index == "-1" else None
        if not is_less or shape is None or shape.op is not Op.ATTRIBUTE or shape.name != "shape":
            return False
        return before_methods(shape.inputs[0], _KEEPING) is before_methods(cut.tensor, _KEEPING)


def _all_of(test: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """The conditions that ``and`` joins."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        yield from _all_of(test.left)
        yield from _all_of(test.right)
    else:
        yield test
