"""The order in which one projection gives queries, keys and values.

LoRA on the queries alone must know which outputs of a fused projection they are. The runtime can serve one order,
"concatenated": all of the queries, then all of the keys, then all of the values, keys as wide as values. It is claimed
only where the text proves it: each of the three is cut out of the projection's output exactly once, along its channels
as a whole (``split(size, dim=2)``, ``x[..., :size]``) or along their most significant factor (``view(b, l, 3, heads,
width)``).

A cut behind another factor (``view(b, l, heads, 3, width)``, ``view(b, l, -1, a + b).split([a, b])``) is an order per head:
"grouped". Then the attributes that state the sizes of the parts are found, so that the runtime can put the outputs in order. The
last dimension of a view counts consecutive outputs, whatever stands before it; the runtime checks that groups fill the outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import libcst as cst

from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.layout import dimension, flat_arguments, integer, is_leading_shape, size_of
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, is_cut, is_of_nothing, last_name, one_step_back

CONCATENATED, GROUPED = "concatenated", "grouped"


class Axis(Enum):
    """What a dimension of the projection's output stands for."""

    CHANNELS = "all outputs"
    THREE = "their most significant factor, of size 3"
    GROUP = "all outputs of a group"
    PARTS = "the three parts of a group"
    OTHER = "anything else"


Axes = tuple[Axis, ...]

_SAME = CASTS | {"contiguous", "dropout", "clamp", "clamp_"}


@dataclass(frozen=True)
class Part:
    """What one cut leaves of the outputs: the part `index` of three, or a slice between two sizes."""

    index: int = -1
    equal: bool = False  # the keys are as wide as the values, by this cut alone
    thirds: bool = False  # all three parts are equally wide
    lower: object = None  # of a slice: the size as a nested tuple; None = an open end
    upper: object = None
    sizes: tuple[str, ...] = ()  # of a group: the attributes that state the size of each part; "" = not stated

    @property
    def is_slice(self) -> bool:
        return self.index < 0


def fused_layout(path: str, three: Sequence[Value], kinds: Kinds, same_width: bool, has_output: bool) -> str:
    """ "concatenated", or "" where the text does not prove it.

    Args:
        path: of the fused projection.
        three: queries, keys and values as they enter the core.
        same_width: whether a key head is as wide as a value head by the views that cut the heads up.
        has_output: whether a projection follows that tells the width of all queries.
    """
    cuts = [_Cuts(path, kinds).of(value) for value in three]
    if any(len(found) != 1 for found in cuts):
        return ""
    query, key, value = (next(iter(found)) for found in cuts)
    if query is None or key is None or value is None:
        return ""
    if query.is_slice or key.is_slice or value.is_slice:
        follows = query.is_slice and key.is_slice and value.is_slice and _follow(query, key, value)
        return CONCATENATED if follows and same_width and has_output else ""
    if (query.index, key.index, value.index) != (0, 1, 2):
        return ""
    parts = (query, key, value)
    widths = all(part.thirds for part in parts) or (has_output and same_width and all(part.equal for part in parts))
    return CONCATENATED if widths else ""


def group_sizes(path: str, core: str, parts: Sequence[Value], kinds: Kinds) -> tuple[str, ...]:
    """Attributes of a core's module: the size of each of `parts` in a group of outputs. () where the text does not prove them.

    Args:
        path: of the projection that gives all of them.
        core: path of the module that attends.
        parts: queries, keys and values, or keys and values, as they enter the core.
    """
    found: list[Part] = []
    for value in parts:
        cuts = _GroupCuts(path, core, kinds).of(value)
        part = cuts.pop() if len(cuts) == 1 else None
        if part is None:
            return ()
        found.append(part)
    sizes = {part.sizes for part in found}
    in_order = [part.index for part in found] == list(range(len(parts)))
    stated = sizes.pop() if len(sizes) == 1 and in_order else ()
    return stated if len(stated) == len(parts) and all(stated) else ()


def stated_size(size: Value, path: str | None = None) -> str:
    """``self.head_dim`` or ``self.config.head_dim``, as a path from the module; "" for anything else.

    Args:
        path: of the only module whose attribute it may be. None = any.
    """
    size = same_tensor(size)
    if size.op is not Op.ATTRIBUTE:
        return ""
    base = same_tensor(size.inputs[0])
    if base.op is Op.SELF:
        return size.name if path in (None, base.path) else ""
    inner = stated_size(base, path)
    return f"{inner}.{size.name}" if inner else ""


def _follow(query: Part, key: Part, value: Part) -> bool:
    """``[..., :a]``, ``[..., a:b]``, ``[..., b:]``."""
    ends = query.upper is not None and query.upper == key.lower
    return ends and query.lower is None and key.upper is not None and key.upper == value.lower and value.upper is None


class _Cuts:
    """Walks back from one of queries, keys and values to the fused projection."""

    def __init__(self, path: str, kinds: Kinds) -> None:
        self._path = path
        self._kinds = kinds
        self._input: Value | None = None  # of the projection

    def of(self, value: Value) -> set[Part | None]:
        """The first cut on every way back to the projection; None for a way without one that is understood."""
        found: set[Part | None] = set()
        todo, seen = [value], set()
        while todo:
            one = todo.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if self._is_projection(one):
                found.add(None)
            elif self._is_taken(one):
                found.add(self._part(one))
            else:
                todo.extend(one_step_back(one, self._kinds))
        return found

    def _is_projection(self, value: Value) -> bool:
        return value.op is Op.SUBMODULE and value.path == self._path and not is_of_nothing(value)

    def _is_taken(self, value: Value) -> bool:
        """Whether `value` is an element or slice of the whole output of the projection."""
        return value.op is Op.ITEM and self._axes(_cut_tensor(value)) is not None

    def _axes(self, value: Value) -> Axes | None:
        """What the dimensions of the whole output stand for; None where `value` is not that, as far as we can tell."""
        if self._is_projection(value):
            self._input = value.inputs[0] if value.inputs else None
            return (Axis.OTHER, Axis.OTHER, Axis.CHANNELS)
        if value.op is Op.SUBMODULE or (value.op is Op.FUNCTION and value.through is not None):
            return None
        if value.op in (Op.METHOD, Op.FUNCTION):
            return self._moved(value)
        if value.op is Op.JOIN:  # clipped or not
            found = set(map(self._axes, value.inputs))
            return found.pop() if len(found) == 1 else None
        return self._axes(value.through) if value.through is not None and value.op is not Op.ITEM else None

    def _viewed(self, before: Axes, arguments: Sequence[Value]) -> Axes | None:
        if before[0] is Axis.THREE and arguments and integer(arguments[0]) == 3:  # the rest is cut up anew
            return (Axis.THREE, *(Axis.OTHER for _ in arguments[1:]))
        place = next((index for index, size in enumerate(arguments) if integer(size) == 3), 0)
        if before[-1] is Axis.CHANNELS and self._input is not None and _are_lead_of(self._input, arguments[:place]):
            return (*(Axis.OTHER for _ in arguments[:place]), *_factors(arguments[place:]))
        if any(_unpacked(same_tensor(size)) > 3 for size in arguments):  # of a shape with more than batch and length
            return None
        return _viewed(before, arguments)

    def _moved(self, value: Value) -> Axes | None:
        before = self._axes(value.inputs[0]) if value.inputs else None
        name = last_name(value)
        if before is None or name in _SAME:
            return before
        if name in ("view", "reshape"):
            return self._viewed(before, flat_arguments(value.inputs[1:]))
        if name == "unflatten" and before[-1] is Axis.CHANNELS and integer(value.inputs[1]) in (-1, len(before) - 1):
            return (*before[:-1], *_factors(flat_arguments(value.inputs[2:])))
        if name in ("transpose", "swapaxes", "swapdims") and len(value.inputs) == 3:
            order = list(range(len(before)))
            one, two = (integer(index) for index in value.inputs[1:])
            if one is None or two is None or not all(-len(order) <= index < len(order) for index in (one, two)):
                return None
            order[one], order[two] = order[two], order[one]
            return tuple(before[index] for index in order)
        if name == "permute":
            indices = [integer(index) for index in flat_arguments(value.inputs[1:])]
            known = [index for index in indices if index is not None and index < len(before)]
            return tuple(before[index] for index in known) if len(known) == len(before) == len(indices) else None
        return None

    # -- cuts --------------------------------------------------------------------------------------------------------

    def _part(self, item: Value) -> Part | None:
        tensor = _cut_tensor(item)
        axes = self._axes(tensor)
        assert axes is not None
        cut = same_tensor(item.inputs[0])
        if is_cut(cut):
            return _of_call(cut, axes, item)
        if isinstance(item.node, cst.Subscript):
            return _of_subscript(item, axes)
        return _third(item, axes[0])  # unpacked


class _GroupCuts(_Cuts):
    """Walks back to a cut of the outputs of each group."""

    def __init__(self, path: str, core: str, kinds: Kinds) -> None:
        super().__init__(path, kinds)
        self._core = core
        self._size: Value | None = None  # the last argument of the view that made the groups

    def _moved(self, value: Value) -> Axes | None:
        before = self._axes(value.inputs[0]) if value.inputs else None
        if before is not None and before[-1] is Axis.CHANNELS and last_name(value) in ("view", "reshape"):
            return self._in_groups(flat_arguments(value.inputs[1:]))
        return super()._moved(value)

    def _in_groups(self, arguments: Sequence[Value]) -> Axes | None:
        lead = 0
        if arguments and arguments[0].op is Op.STARRED:
            if not is_leading_shape(arguments[0].inputs[0]):
                return None
            lead, arguments = 2, arguments[1:]
        rank = lead + len(arguments)
        if len(arguments) < 2 or any(argument.op is Op.STARRED for argument in arguments):
            return None
        self._size = arguments[-1]
        if integer(arguments[-2]) == 3:
            return (*(Axis.OTHER for _ in range(rank - 2)), Axis.PARTS, Axis.OTHER)
        return (*(Axis.OTHER for _ in range(rank - 1)), Axis.GROUP)

    def _part(self, item: Value) -> Part | None:
        axes = self._axes(_cut_tensor(item))
        assert axes is not None
        cut = same_tensor(item.inputs[0])
        if is_cut(cut):
            axis = dimension(cut, 1 if last_name(cut) == "unbind" else 2, len(axes), 0)
            sizes = self._sizes(cut, axes[axis]) if axis is not None else ()
            return Part(int(item.index), sizes=sizes) if item.index.isdigit() and sizes else None
        if not isinstance(item.node, cst.Subscript):  # unpacked
            is_part = axes[0] is Axis.PARTS and item.index in ("0", "1", "2")
            return Part(int(item.index), sizes=self._thirds(self._size)) if is_part else None
        numbers = [
            integer(item.inputs[1 + place])
            for axis_kind, index, place in _indexed(item.node, axes)
            if axis_kind is Axis.PARTS and isinstance(index, cst.Index)
        ]
        cuts_else = any(
            axis_kind is not Axis.PARTS and not _is_all(index) for axis_kind, index, _ in _indexed(item.node, axes)
        )
        if len(numbers) != 1 or numbers[0] not in (0, 1, 2) or cuts_else:
            return None
        return Part(numbers[0], sizes=self._thirds(self._size))

    def _sizes(self, cut: Value, axis: Axis) -> tuple[str, ...]:
        """The attributes that state how large the parts of a cut are."""
        name, given = last_name(cut), _argument(cut)
        if name == "unbind":
            return self._thirds(self._size) if axis is Axis.PARTS else ()
        if axis is not Axis.GROUP or given is None:
            return ()
        if name == "chunk":
            return self._factors_of(self._size, integer(given) or 0)
        return self._listed(same_tensor(given)) if name in ("split", "split_with_sizes") else ()

    def _thirds(self, size: Value | None) -> tuple[str, ...]:
        return () if size is None else (stated_size(size, self._core),) * 3

    def _factors_of(self, size: Value | None, count: int) -> tuple[str, ...]:
        """Of ``3 * self.width`` for three parts: each is as large as the other factor."""
        total = None if size is None else same_tensor(size)
        if total is None or total.op is not Op.BINARY or total.operator != "*":
            return ()
        others = [factor for factor in total.inputs if integer(factor) != count]
        return (stated_size(others[0], self._core),) * count if len(others) == 1 else ()

    def _listed(self, sizes: Value) -> tuple[str, ...]:
        """Of ``[self.a, self.b]``, or ``3 * [self.a]``."""
        if sizes.op is Op.TUPLE:
            return tuple(stated_size(size, self._core) for size in sizes.inputs)
        if sizes.op is Op.BINARY and sizes.operator == "*":
            one, two = map(same_tensor, sizes.inputs)
            times, listed = (integer(one), two) if two.op is Op.TUPLE else (integer(two), one)
            return self._listed(listed) * (times or 0) if listed.op is Op.TUPLE else ()
        return ()


def _is_all(index: cst.BaseSlice) -> bool:
    return isinstance(index, cst.Slice) and index.lower is None and index.upper is None and index.step is None


def _cut_tensor(item: Value) -> Value:
    """The tensor that an element was taken of: of ``x.split(n)[0]``, `x`."""
    base = same_tensor(item.inputs[0])
    return base.inputs[0] if is_cut(base) and base.inputs else base


def _third(item: Value, axis: Axis) -> Part | None:
    """Element 0, 1 or 2 of the factor 3."""
    if axis is not Axis.THREE or not item.index.isdigit():
        return None
    return Part(index=int(item.index), equal=True, thirds=True)


def _of_call(cut: Value, axes: Axes, item: Value) -> Part | None:
    """An element of what ``split``, ``chunk`` or ``unbind`` gave."""
    name = last_name(cut)
    axis = dimension(cut, 1 if name == "unbind" else 2, len(axes), 0)
    if axis is None or not item.index.isdigit():
        return None
    if name == "unbind":
        return _third(item, axes[axis])
    sizes = _argument(cut)
    if sizes is None or axes[axis] is Axis.OTHER:
        return None
    index = int(item.index)
    if name in ("chunk", "tensor_split"):
        return Part(index, equal=True, thirds=True) if integer(sizes) == 3 else None
    if name not in ("split", "split_with_sizes") or axes[axis] is not Axis.CHANNELS:
        return None
    return _of_split(same_tensor(sizes), index, item)


def _of_split(sizes: Value, index: int, item: Value) -> Part | None:
    """``split(size)`` unpacked to three names, or ``split([a, b, b])``."""
    if sizes.op is not Op.TUPLE:
        one_size = sizes.op in (Op.ATTRIBUTE, Op.BINARY, Op.CONSTANT)
        return Part(index, equal=True, thirds=True) if one_size and _unpacked(item) == 3 else None
    if len(sizes.inputs) != 3 or any(size.op is Op.STARRED for size in sizes.inputs):
        return None
    first, second, third = map(_meaning, sizes.inputs)
    return Part(index, equal=second == third, thirds=first == second == third)


def _of_subscript(item: Value, axes: Axes) -> Part | None:
    """``x[0]`` or ``x[:, :, 0]`` of the factor 3; ``x[..., a:b]`` of all channels."""
    found: list[Part | None] = []
    assert isinstance(item.node, cst.Subscript)
    for axis, index, part in _indexed(item.node, axes):
        if isinstance(index, cst.Slice):
            if index.lower is None and index.upper is None and index.step is None:
                continue
            given = item.inputs[1 + part].inputs
            ends = iter(given)
            lower = _meaning(next(ends)) if index.lower is not None else None
            upper = _meaning(next(ends)) if index.upper is not None else None
            found.append(Part(lower=lower, upper=upper) if axis is Axis.CHANNELS and index.step is None else None)
        else:
            number = integer(item.inputs[1 + part])
            known = axis is Axis.THREE and number in (0, 1, 2)
            found.append(Part(index=number, equal=True, thirds=True) if known and number is not None else None)
    return found[0] if len(found) == 1 else None


def _indexed(node: cst.Subscript, axes: Axes) -> Iterator[tuple[Axis, cst.BaseSlice, int]]:
    """Each index or slice with the dimension that it is about, and its place in the brackets."""
    parts = [element.slice for element in node.slice]
    position = 0
    for place, part in enumerate(parts):
        if isinstance(part, cst.Index) and isinstance(part.value, cst.Ellipsis):
            position = len(axes) - (len(parts) - place - 1)
            continue
        yield (axes[position] if position < len(axes) else Axis.OTHER), part, place
        position += 1


def _viewed(before: Axes, arguments: Sequence[Value]) -> Axes | None:
    """Outputs (b, l, c) seen as (b, l, 3, heads, width), or (l, c) as (l, 3, heads, width)."""
    if before[-1] is not Axis.CHANNELS or len(arguments) < 2:
        return None
    if arguments[0].op is Op.STARRED:
        lead: Axes = (Axis.OTHER, Axis.OTHER) if is_leading_shape(arguments[0].inputs[0]) else ()
        rest = arguments[1:]
    else:
        sizes = list(map(size_of, arguments[:2]))
        if sizes == ["b", "l"]:
            lead, rest = (Axis.OTHER, Axis.OTHER), arguments[2:]
        elif sizes[0] == "b" and integer(arguments[1]) == 3:  # tokens of all sequences in a row
            lead, rest = (Axis.OTHER,), arguments[1:]
        else:
            return None
    return (*lead, *_factors(rest)) if lead else None


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
        str(index) for index in range(_unpacked(factors[0]) - 1)
    ]


def _factors(sizes: Sequence[Value]) -> Axes:
    """Of channels cut up into factors: the first is the most significant."""
    if len(sizes) == 1:
        return (Axis.CHANNELS,)
    return tuple(Axis.THREE if place == 0 and integer(one) == 3 else Axis.OTHER for place, one in enumerate(sizes))


def _argument(cut: Value) -> Value | None:
    """The sizes or the number of parts."""
    for name in ("split_size_or_sections", "split_size", "split_sizes", "chunks"):
        given = cut.keyword(name)
        if given is not None:
            return given
    return cut.inputs[1] if len(cut.inputs) > 1 else None


def _unpacked(item: Value) -> int:
    """To how many names the statement of `item` unpacks."""
    statement = item.statement
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return 0
    assign = statement.body[0]
    if not isinstance(assign, cst.Assign) or not isinstance(assign.targets[0].target, (cst.Tuple, cst.List)):
        return 0
    elements = assign.targets[0].target.elements
    return len(elements) if item.node in elements else 0


def _meaning(value: Value) -> object:
    """A size as a nested tuple: equal where both texts compute the same from the same."""
    value = same_tensor(value)
    told = (value.op, value.name, value.path, value.operator, value.literal)
    if value.op in (Op.CONSTANT, Op.GLOBAL, Op.SELF):
        return told
    if value.op in (Op.ATTRIBUTE, Op.BINARY, Op.UNARY):
        return (told, *map(_meaning, value.inputs))
    return id(value)
