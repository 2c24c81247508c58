"""What the dimensions of a projection's output stand for, while it is viewed, transposed and permuted.

Outputs that are neighbours in a dimension lie `stride` outputs apart: the last dimension of a view counts consecutive outputs, the one
before it steps over as many as the last has, whatever stands in front. So a dimension is known where all behind it are. Where the text
shows which dimensions stand for batch and length, it also tells a size that is left open (-1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapter_codegen.plan.attention.fused.sizes import OUTPUTS, Size, number, product, size_of
from adapter_codegen.plan.flow.layout import integer, is_leading_shape, unpacked
from adapter_codegen.plan.flow.layout import size_of as meaning_of
from adapter_codegen.plan.flow.values import Op, Value, same_tensor


@dataclass(frozen=True)
class Axis:
    """One dimension of the output."""

    size: Size | None = None  # None: not stated
    stride: Size | None = None  # None: it counts no outputs (batch, length), or how far they are apart is not known
    span: Size | None = None  # how many outputs it steps through: size times stride


@dataclass(frozen=True)
class Output:
    """The whole output of a projection."""

    axes: tuple[Axis, ...]
    projected: Value | None  # what it was computed from
    is_in_order: bool = True  # outputs stand as the projection gave them

    def at(self, index: int) -> Axis | None:
        return self.axes[index] if -len(self.axes) <= index < len(self.axes) else None

    def moved(self, order: Sequence[int | None]) -> Output | None:
        """With the dimensions in another order."""
        rank = len(self.axes)
        places = [index % rank for index in order if index is not None and -rank <= index < rank]
        if len(places) != len(order) or sorted(places) != list(range(rank)):
            return None
        return Output(tuple(self.axes[place] for place in places), self.projected, is_in_order=False)

    def swapped(self, one: int | None, other: int | None) -> Output | None:
        if one is None or other is None or self.at(one) is None or self.at(other) is None:
            return None
        order = list(range(len(self.axes)))
        order[one], order[other] = order[other], order[one]
        return self.moved(order)

    def with_one(self, place: int | None) -> Output | None:
        """With a dimension of size 1 at `place`."""
        rank = len(self.axes) + 1
        if place is None or not -rank <= place < rank:
            return None
        axes = (*self.axes[: place % rank], Axis(), *self.axes[place % rank :])
        return Output(axes, self.projected, self.is_in_order)

    def cut_up(self, arguments: Sequence[Value], path: str) -> Output | None:
        """The last dimension as several, where it is all outputs."""
        if not arguments or self.axes[-1] != ALL:
            return None
        axes = _factors(arguments, path)
        return Output((*self.axes[:-1], *axes), self.projected, self.is_in_order)

    def viewed(self, arguments: Sequence[Value], path: str) -> Output | None:
        """Viewed with other dimensions; `path`: of the module whose attributes may state them."""
        if not arguments:
            return None
        if not self.is_in_order:  # the first may stay, all else is cut up anew
            stays = self.axes[0].size is not None and size_of(arguments[0], path) == self.axes[0].size
            axes = (self.axes[0], *[Axis()] * (len(arguments) - 1))
            return Output(axes, self.projected, is_in_order=False) if stays else None
        starred, arguments = _without_star(arguments)
        if starred is None or any(argument.op is Op.STARRED for argument in arguments):
            return None
        lead = 0 if starred else self._lead(arguments)
        if lead is None:  # some are batch and length, it is not shown which
            return Output(tuple(_strides(_sizes(arguments, path))), self.projected)
        rest = arguments[lead:]
        return Output((*[Axis()] * (2 if starred else lead), *_factors(rest, path)), self.projected) if rest else None

    def _lead(self, arguments: Sequence[Value]) -> int | None:
        """How many of the arguments are batch and length, and all of these; None where the text does not show it."""
        for place in range(1, len(arguments)):
            if self.projected is not None and _are_lead_of(self.projected, arguments[:place]):
                return place
        if any(unpacked(same_tensor(size)) > 3 for size in arguments):  # of a shape with more than batch and length
            return None
        meant = [meaning_of(size) for size in arguments[:2]]
        if meant == ["b", "l"]:
            return 2
        if meant[0] == "b" and len(arguments) > 1 and integer(arguments[1]) == 3:  # tokens of all sequences in a row
            return 1
        return None


ALL = Axis(OUTPUTS, number(1), OUTPUTS)


def output_of(projection: Value) -> Output:
    """What a projection gave: (batch, length, outputs)."""
    return Output((Axis(), Axis(), ALL), projection.inputs[0] if projection.inputs else None)


def _without_star(arguments: Sequence[Value]) -> tuple[bool | None, Sequence[Value]]:
    """Whether ``*x.shape[:-1]`` stands first, and the others; None: another starred argument does."""
    if arguments[0].op is not Op.STARRED:
        return False, arguments
    return (True if is_leading_shape(arguments[0].inputs[0]) else None), arguments[1:]


def _factors(arguments: Sequence[Value], path: str) -> tuple[Axis, ...]:
    """Of all outputs, the most significant first: one that is left open is what the others leave."""
    sizes = _sizes(arguments, path)
    is_open = [integer(argument) == -1 for argument in arguments]
    others = product(size for size, left in zip(sizes, is_open, strict=True) if not left)
    if is_open.count(True) == 1 and others is not None:
        sizes[is_open.index(True)] = OUTPUTS // others
    first, *rest = _strides(sizes)
    if first.size is not None and (any(is_open) or first.stride is None):
        is_known = first.stride is not None and not any(is_open[1:])  # else: however the rest is cut up
        first = Axis(first.size, first.stride if is_known else OUTPUTS // first.size, OUTPUTS)
    return (first, *rest)


def _sizes(arguments: Sequence[Value], path: str) -> list[Size | None]:
    return [None if integer(argument) == -1 else size_of(argument, path) for argument in arguments]


def _strides(sizes: Sequence[Size | None]) -> list[Axis]:
    """Dimensions of these sizes: those are known behind which all sizes are."""
    return [Axis(size, product(sizes[place + 1 :]), product(sizes[place:])) for place, size in enumerate(sizes)]


def _are_lead_of(tensor: Value, sizes: Sequence[Value]) -> bool:
    """Whether `sizes` are all but the last of ``batch, height, width, _ = tensor.shape``, some of them multiplied."""
    factors: list[Value] = []
    todo = list(sizes)
    while todo:
        size = same_tensor(todo.pop())
        if size.op is Op.BINARY and size.operator == "*":
            todo += size.inputs
        else:
            factors.append(size)
    for factor in factors:
        shape = same_tensor(factor.inputs[0]) if factor.op is Op.ITEM else factor
        if (
            shape.op is not Op.ATTRIBUTE
            or shape.name != "shape"
            or same_tensor(shape.inputs[0]) is not same_tensor(tensor)
        ):
            return False
    return bool(factors) and sorted(factor.index for factor in factors) == [
        str(index) for index in range(unpacked(factors[0]) - 1)
    ]
