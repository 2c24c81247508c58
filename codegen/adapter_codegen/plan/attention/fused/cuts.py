"""The first cut on every way from a projection to one of queries, keys and values, as a span of its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.attention.fused.axes import Axis, Output, output_of
from adapter_codegen.plan.attention.fused.sizes import Size, number, size_of
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.layout import dimension, flat_arguments, integer, unpacked
from adapter_codegen.plan.flow.values import Frame, Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, called, is_cut, is_of_nothing, last_name, one_step_back

_EMPTY = frozenset(
    {"new_empty", "new_zeros", "empty_like", "zeros_like"}
)  # as large as another tensor, and no more of it
_SAME = CASTS | {"contiguous", "dropout", "clamp", "clamp_"}


@dataclass(frozen=True)
class Span:
    """Outputs of a group: those from `start` on, up to `stop`."""

    start: Size
    stop: Size
    group: Size  # how many outputs a group has
    is_last: bool  # nothing of the group is behind it


@dataclass(frozen=True, eq=False)
class Cut:
    """Where one of queries, keys and values is taken out of the output."""

    span: Span | None  # None: no span that is understood
    projection: Value  # the call of which the output is cut
    statement: cst.CSTNode | None  # that cuts
    frame: Frame


class Cuts:
    """Walks back from one of queries, keys and values to the projection at a path."""

    def __init__(self, path: str, core: str, kinds: Kinds) -> None:
        """`core`: path of the module whose attributes may state sizes."""
        self._path = path
        self._core = core
        self._kinds = kinds

    def is_part(self, value: Value) -> bool:
        """Whether a value is cut out of the output."""
        return value.op is Op.ITEM and self._output(_cut_tensor(value)) is not None

    def of(self, value: Value) -> list[Cut]:
        """The first cut on every way back to the projection."""
        found: list[Cut] = []
        todo, seen = [value], set()
        while todo:
            one = todo.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if self._is_projection(one):
                found.append(Cut(None, one, one.statement, one.frame))
            elif self.is_part(one) and (output := self._output(_cut_tensor(one))) is not None:
                found += [Cut(self._span(one, output), call, one.statement, one.frame) for call in self._calls(one)]
            elif back := self._back(one):
                todo.extend(back)
            elif not called(one, *_EMPTY):  # computed in a way that is not followed, maybe of the output
                calls = filter(self._is_projection, ancestors(one).values())
                found += [Cut(None, call, one.statement, one.frame) for call in calls]
        return found

    def _back(self, value: Value) -> tuple[Value, ...]:
        if value.op is Op.ATTRIBUTE and value.name == "values" and called(value.inputs[0], "max", "min"):  # of pooling
            return value.inputs[0].inputs[:1]
        return one_step_back(value, self._kinds)

    def _is_projection(self, value: Value) -> bool:
        return value.op is Op.SUBMODULE and value.path == self._path and not is_of_nothing(value)

    def _calls(self, item: Value) -> Iterator[Value]:
        """The calls of the projection that give what `item` is taken of."""
        todo, seen = [_cut_tensor(item)], set()
        while todo:
            value = todo.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if self._is_projection(value):
                yield value
            else:
                todo.extend(one_step_back(value, self._kinds))

    # -- the output on its way to the cut ------------------------------------------------------------------------------

    def _output(self, value: Value) -> Output | None:
        """What the dimensions of the whole output stand for; None where `value` is not that, as far as we can tell."""
        if self._is_projection(value):
            return output_of(value)
        if value.op is Op.SUBMODULE or (value.op is Op.FUNCTION and value.through is not None):
            return None
        if value.op in (Op.METHOD, Op.FUNCTION):
            return self._moved(value)
        if value.op is Op.JOIN:  # clipped or not
            first, *others = map(self._output, value.inputs)
            return first if first is not None and all(other == first for other in others) else None
        return self._output(value.through) if value.through is not None and value.op is not Op.ITEM else None

    def _moved(self, value: Value) -> Output | None:
        before = self._output(value.inputs[0]) if value.inputs else None
        name, arguments = last_name(value), value.inputs[1:]
        if before is None or name in _SAME:
            return before
        if name in ("view", "reshape"):
            return before.viewed(flat_arguments(arguments), self._core)
        if name == "unflatten" and integer(arguments[0]) in (-1, len(before.axes) - 1):
            return before.cut_up(flat_arguments(arguments[1:]), self._core)
        if name in ("transpose", "swapaxes", "swapdims") and len(arguments) == 2:
            return before.swapped(*map(integer, arguments))
        if name == "permute":
            return before.moved([integer(index) for index in flat_arguments(arguments)])
        if name == "unsqueeze" and len(arguments) == 1:
            return before.with_one(integer(arguments[0]))
        return None

    # -- the cut -------------------------------------------------------------------------------------------------------

    def _span(self, item: Value, output: Output) -> Span | None:
        cut = same_tensor(item.inputs[0])
        if is_cut(cut):
            return self._of_call(cut, output, item)
        if isinstance(item.node, cst.Subscript):
            return self._of_subscript(item, output)
        return _element(output.axes[0], int(item.index)) if item.index.isdigit() else None  # unpacked

    def _of_call(self, cut: Value, output: Output, item: Value) -> Span | None:
        """An element of what ``split``, ``chunk`` or ``unbind`` gave."""
        name = last_name(cut)
        place = dimension(cut, 1 if name == "unbind" else 2, len(output.axes), 0)
        if place is None or not item.index.isdigit():
            return None
        axis, index, given = output.axes[place], int(item.index), _argument(cut)
        if name == "unbind":
            return _element(axis, index)
        if given is None:
            return None
        if name in ("split", "split_with_sizes"):
            return self._of_split(axis, same_tensor(given), index, item)
        count = integer(given)
        return None if axis.size is None or not count else _equal(axis, axis.size // number(count), index, count)

    def _of_split(self, axis: Axis, given: Value, index: int, item: Value) -> Span | None:
        """``split(size)`` unpacked to names, or ``split([a, b, b])``."""
        listed = self._listed(given)
        if listed is None:
            size, count = size_of(given, self._core), unpacked(item)
            return _equal(axis, size, index, count) if size is not None else None
        if None in listed or index >= len(listed):
            return None
        sizes = [size for size in listed if size is not None]
        start, total = sum(sizes[:index], number(0)), sum(sizes, number(0))
        return _scaled(axis, start, start + sizes[index], total, index == len(sizes) - 1)

    def _listed(self, sizes: Value) -> list[Size | None] | None:
        """Of ``[self.a, self.b]``, or ``3 * [self.a]``; None for what is no list."""
        if sizes.op is Op.TUPLE:
            return [size_of(size, self._core) for size in sizes.inputs]
        if sizes.op is Op.BINARY and sizes.operator == "*":
            one, two = map(same_tensor, sizes.inputs)
            times, listed = (integer(one), two) if two.op is Op.TUPLE else (integer(two), one)
            known = self._listed(listed) if listed.op is Op.TUPLE else None
            return None if known is None else known * (times or 0)
        return None

    def _of_subscript(self, item: Value, output: Output) -> Span | None:
        """``x[0]``, ``x[:, :, [-2]]`` or ``x[..., a:b]``, of one dimension."""
        found: list[Span | None] = []
        assert isinstance(item.node, cst.Subscript)
        for axis, index, place in _indexed(item.node, output):
            if not isinstance(index, cst.Slice):
                found.append(_one_of(axis, item.inputs[1 + place]))
            elif index.lower is not None or index.upper is not None or index.step is not None:
                found.append(self._slice(axis, index, item.inputs[1 + place]))
        return found[0] if len(found) == 1 else None

    def _slice(self, axis: Axis, index: cst.Slice, given: Value) -> Span | None:
        if axis.size is None or index.step is not None:
            return None
        ends = iter(given.inputs)
        lower = number(0) if index.lower is None else _from_front(size_of(next(ends), self._core), axis.size)
        upper = axis.size if index.upper is None else _from_front(size_of(next(ends), self._core), axis.size)
        if lower is None or upper is None:
            return None
        return _scaled(axis, lower, upper, axis.size, upper == axis.size)


def _cut_tensor(item: Value) -> Value:
    """The tensor that an element was taken of: of ``x.split(n)[0]``, `x`."""
    base = same_tensor(item.inputs[0])
    return base.inputs[0] if is_cut(base) and base.inputs else base


def _argument(cut: Value) -> Value | None:
    """The sizes or the number of parts."""
    for name in ("split_size_or_sections", "split_size", "split_sizes", "chunks"):
        given = cut.keyword(name)
        if given is not None:
            return given
    return cut.inputs[1] if len(cut.inputs) > 1 else None


def _indexed(node: cst.Subscript, output: Output) -> Iterator[tuple[Axis, cst.BaseSlice, int]]:
    """Each index or slice with the dimension that it is about, and its place in the brackets."""
    parts = [element.slice for element in node.slice]
    position = 0
    for place, part in enumerate(parts):
        if isinstance(part, cst.Index) and isinstance(part.value, cst.Ellipsis):
            position = len(output.axes) - (len(parts) - place - 1)
            continue
        yield output.at(position) or Axis(), part, place
        position += 1


def _one_of(axis: Axis, index: Value) -> Span | None:
    """``x[1]``, or ``x[[1]]``, which keeps the dimension."""
    listed = same_tensor(index)
    if listed.op is Op.TUPLE:
        index = listed.inputs[0] if len(listed.inputs) == 1 else index
    known = integer(index)
    return None if known is None else _element(axis, known)


def _element(axis: Axis, index: int) -> Span | None:
    start = None if axis.size is None else _from_front(number(index), axis.size)
    if start is None or axis.size is None:
        return None
    stop = start + number(1)
    inside = axis.size.number is None or index < axis.size.number
    return _scaled(axis, start, stop, axis.size, stop == axis.size) if inside else None


def _equal(axis: Axis, size: Size, index: int, count: int) -> Span | None:
    """One of `count` parts of a dimension that are all of one size."""
    if index >= count:
        return None
    return _scaled(axis, size * number(index), size * number(index + 1), size * number(count), index == count - 1)


def _scaled(axis: Axis, start: Size, stop: Size, total: Size, is_last: bool) -> Span | None:
    """A part of a dimension as a span of outputs; `total`: the size of the dimension, where it does not state it."""
    if axis.stride is None:
        return None
    group = total * axis.stride if axis.span is None else axis.span
    return Span(start * axis.stride, stop * axis.stride, group, is_last)


def _from_front(place: Size | None, size: Size) -> Size | None:
    """A place that may be counted from the end."""
    is_negative = place is not None and place.number is not None and place.number < 0
    return size + place if place is not None and is_negative else place
