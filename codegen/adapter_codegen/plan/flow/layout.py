"""The order of a tensor's dimensions, by symbols, as far as the text proves it.

Symbols: "b" batch, "l" length, "c" channels, "x" a part of the channels (heads, width, or what they are grouped in), "bx" batch and
heads in one. A key that prefix tuning may lengthen is ("b", "x", "l", "x"), or ("bx", "l", "x").
"""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.values import Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, called, is_cut, is_scalar, last_name, sources, tensor_operands

Layout = tuple[str, ...]
IMPOSSIBLE: Layout = ()  # of a branch that is for tensors of another rank

_SAME = CASTS | {"contiguous", "pad", "dropout", "normalize", "repeat_interleave", "clamp"}
_CONTENTS = frozenset({"view", "reshape"})


def is_key_layout(layout: Layout | None) -> bool:
    """(batch, heads, length, width)."""
    return layout is not None and len(layout) == 4 and layout[0] == "b" and layout[2] == "l"


def is_flat_key_layout(layout: Layout | None) -> bool:
    """(batch * heads, length, width)."""
    return layout == ("bx", "l", "x")


class Layouts:
    """Answers for one flow, remembered."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._known: dict[int, Layout | None] = {}

    def of(self, value: Value) -> Layout | None:
        """The order of dimensions; None where the text does not prove it."""
        if id(value) not in self._known:
            self._known[id(value)] = None  # a loop proves nothing
            self._known[id(value)] = self._find(value)
        return self._known[id(value)]

    def _find(self, value: Value) -> Layout | None:
        if value.op is Op.SUBMODULE:
            return self._submodule(value)
        if value.op is Op.ITEM:
            return self._item(value)
        if value.op is Op.FUNCTION and value.through is not None:  # of this file: rotary embedding, repeat_kv
            return self.of(value.inputs[0]) if value.inputs else None
        if value.through is not None:
            return self.of(value.through)
        if value.op is Op.JOIN:
            return self._join(value)
        if value.op in (Op.METHOD, Op.FUNCTION):
            return self._call(value)
        if value.op is Op.BINARY and value.operator in "+-*/":
            tensors = tensor_operands(value)
            return self.of(tensors[0]) if tensors else None
        return None

    def _submodule(self, value: Value) -> Layout | None:
        kind = self._kinds.of(value.module.classes) if value.module else Kind.WORK
        if kind is Kind.LINEAR:
            before = self.of(value.inputs[0]) if value.inputs else None
            return (*before[:-1], "c") if before else ("b", "l", "c")
        if kind in (Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.SCALE) and value.inputs:
            return self.of(value.inputs[0])
        return self.of(value.through) if value.through is not None else None

    def _join(self, value: Value) -> Layout | None:
        """What comes out of a cache has the layout of what went in."""
        found = [(choice, self.of(choice)) for choice in value.choices if not _from_cache(choice)]
        known = {layout for _, layout in found} - {IMPOSSIBLE}
        if None in known and len(known) == 2:
            projected = self._projected([choice for choice, layout in found if layout])
            if all(layout is not None or _is_for_matrices(choice, projected) for choice, layout in found):
                known.remove(None)
        return known.pop() if len(known) == 1 else None

    def _projected(self, values: Sequence[Value]) -> set[int]:
        """What linear modules read that these come from: (batch, length, channels)."""
        linears = [one for value in values for one in sources(value, self._kinds, frozenset({Kind.LINEAR}))]
        return {id(same_tensor(linear.inputs[0])) for linear in linears if linear.inputs}

    def _item(self, value: Value) -> Layout | None:
        base = value.inputs[0]
        seen = same_tensor(base)
        index = int(value.index) if value.index.isdigit() else None
        if is_cut(seen):
            return self._part(seen)
        if seen.op is Op.METHOD and seen.name == "update" and index is not None and index + 1 < len(seen.inputs):
            return self.of(seen.inputs[index + 1])
        if seen.op is Op.FUNCTION and seen.through is not None and index is not None and index < len(seen.inputs):
            return self.of(seen.inputs[index])
        if value.through is not None:
            return self.of(value.through)
        before = self.of(base)
        return _indexed(value, before) if before is not None else None

    def _part(self, cut: Value) -> Layout | None:
        before = self.of(cut.inputs[0])
        if before is None or last_name(cut) != "unbind":
            return before
        position = dimension(cut, 1, len(before), 0)
        return None if position is None else (*before[:position], *before[position + 1 :])

    def _call(self, value: Value) -> Layout | None:
        if called(value, "cat", "concat") and value.inputs and value.inputs[0].op is Op.TUPLE:
            known = {self.of(part) for part in value.inputs[0].inputs if not _from_cache(part)}
            return known.pop() if len(known) == 1 else None
        if not value.inputs:
            return None
        before = self.of(value.inputs[0])
        name = last_name(value)
        if name in _SAME:
            return before
        if name in _CONTENTS:
            arguments = flat_arguments(value.inputs[1:])
            return _heads_in_batch(arguments, self) if before == ("b", "x", "l", "x") else _viewed(before, arguments)
        if before is None:
            return None
        if name in ("transpose", "swapaxes", "swapdims") and len(value.inputs) == 3:
            return _swapped(before, value.inputs[1], value.inputs[2])
        if name == "permute":
            return _permuted(before, flat_arguments(value.inputs[1:]))
        if name == "unflatten" and integer(value.inputs[1]) in (-1, len(before) - 1):
            return (*before[:-1], *("x" for _ in flat_arguments(value.inputs[2:])))
        return None


def _is_for_matrices(value: Value, hidden_states: set[int]) -> bool:
    """Whether it is computed from ``x.t()``, which torch does for no more than two dimensions, of hidden states that have three."""
    return any(
        called(one, "t") and bool(one.inputs) and id(same_tensor(one.inputs[0])) in hidden_states
        for one in ancestors(value).values()
    )


def _from_cache(value: Value) -> bool:
    """An attribute or element of something that is no tensor of this forward: ``layers[i].keys``, ``past[0]``."""
    value = same_tensor(value)
    if value.op is Op.JOIN:
        return all(map(_from_cache, value.choices))
    if value.op in (Op.ATTRIBUTE, Op.ITEM) and value.inputs:
        return _from_cache(value.inputs[0])
    return value.op is Op.PARAMETER


def integer(value: Value) -> int | None:
    value = same_tensor(value)
    if value.op is Op.CONSTANT and value.literal.isdigit():
        return int(value.literal)
    if value.op is Op.UNARY and value.operator == "-":
        inner = integer(value.inputs[0])
        return None if inner is None else -inner
    return None


def dimension(value: Value, index: int, rank: int, default: int) -> int | None:
    """The dimension that a call names, counted from the front."""
    given = value.keyword("dim") or (value.inputs[index] if index < len(value.inputs) else None)
    found = default if given is None else integer(given)
    if found is None or not -rank <= found < rank:
        return None
    return found % rank


def flat_arguments(values: Sequence[Value]) -> list[Value]:
    """The arguments of a view, given one by one or as a tuple."""
    flat: list[Value] = []
    for value in values:
        tensor = same_tensor(value)
        if value.op is Op.STARRED:
            inner = same_tensor(value.inputs[0])
            flat += flat_arguments([inner]) if inner.op is Op.TUPLE or _is_lengthened(inner) else [value]
        elif tensor.op is Op.TUPLE:
            flat += flat_arguments(tensor.inputs)
        elif _is_lengthened(tensor):
            left = [tensor.inputs[0]] if same_tensor(tensor.inputs[0]).op is Op.TUPLE else [_star(tensor.inputs[0])]
            flat += flat_arguments(left) + flat_arguments([tensor.inputs[1]])
        else:
            flat.append(value)
    return flat


def _is_lengthened(shape: Value) -> bool:
    """``x.size()[:-1] + (heads, width)``."""
    return shape.is_sum and same_tensor(shape.inputs[1]).op is Op.TUPLE


def _star(value: Value) -> Value:
    return Value(Op.STARRED, value.node, (value,), value.frame, value.statement)


def _is_shape(value: Value) -> bool:
    value = same_tensor(value)
    return (value.op is Op.ATTRIBUTE and value.name == "shape") or (value.op is Op.METHOD and value.name == "size")


def is_leading_shape(value: Value) -> bool:
    """``x.shape[:-1]``: batch and length of hidden states."""
    value = same_tensor(value)
    if value.op is not Op.ITEM or not _is_shape(value.inputs[0]) or not isinstance(value.node, cst.Subscript):
        return False
    part = value.node.slice[0].slice
    if not isinstance(part, cst.Slice) or part.lower is not None or part.upper is None:
        return False
    return isinstance(part.upper, cst.UnaryOperation) or (
        isinstance(part.upper, cst.Integer) and part.upper.value == "2"
    )


def size_of(value: Value) -> str:
    """What an argument of a view stands for: "b", "l", "x", "b*x", "c/x" (what `x` leaves of the channels), "?" (-1), or "" if unknown."""
    value = same_tensor(value)
    if integer(value) == -1:
        return "?"
    if value.op is Op.ITEM and _is_shape(value.inputs[0]):
        return {"0": "b", "1": "l"}.get(value.index, "")
    if value.op is Op.METHOD and value.name == "size" and len(value.inputs) == 2:
        index = integer(value.inputs[1])
        return "" if index is None else {0: "b", 1: "l"}.get(index, "")
    if value.op is Op.JOIN:
        found = set(map(size_of, value.choices))
        return found.pop() if len(found) == 1 else ""
    if _is_part_of_channels(value):
        return "c/x"
    if value.op is Op.BINARY and value.operator == "*" and sorted(map(size_of, value.inputs)) == ["b", "x"]:
        return "b*x"
    return "x" if is_scalar(value) and not _is_shape_arithmetic(value) else ""


def _is_part_of_channels(value: Value) -> bool:
    """``channels // self.heads``, where ``batch, length, channels = x.shape``."""
    if value.op is not Op.BINARY or value.operator != "//":
        return False
    channels, parts = map(same_tensor, value.inputs)
    if channels.op is not Op.ITEM or not _is_shape(channels.inputs[0]):
        return False
    is_last = channels.index == "-1" or (channels.index == "2" and unpacked(channels) == 3)
    return is_last and is_scalar(parts) and not _is_shape_arithmetic(parts)


def unpacked(item: Value) -> int:
    """To how many names the statement of `item` unpacks."""
    statement = item.statement
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return 0
    assign = statement.body[0]
    if not isinstance(assign, cst.Assign) or not isinstance(assign.targets[0].target, (cst.Tuple, cst.List)):
        return 0
    elements = assign.targets[0].target.elements
    return len(elements) if item.node in elements else 0


def _is_shape_arithmetic(value: Value) -> bool:
    value = same_tensor(value)
    if value.op is Op.ITEM and _is_shape(value.inputs[0]):
        return True
    return value.op is not Op.ATTRIBUTE and any(map(_is_shape_arithmetic, value.inputs))


def _viewed(before: Layout | None, arguments: Sequence[Value]) -> Layout | None:
    """(b, l, c) seen as (b, l, x, x ...): the channels are cut up, batch and length stay."""
    if before is None or before[:2] != ("b", "l") or not arguments:
        return None
    if arguments[0].op is Op.STARRED:
        if not is_leading_shape(arguments[0].inputs[0]):
            return None
        lead, rest = ["b", "l"], list(map(size_of, arguments[1:]))
    else:
        sizes = list(map(size_of, arguments))
        lead, rest = sizes[:2], sizes[2:]
    if sorted(lead) not in (["b", "l"], ["?", "b"], ["?", "l"]) and lead != ["b", ""]:
        return None
    if lead[0] not in ("b", "?") or any(size not in ("x", "c/x", "?") for size in rest):
        return None
    if "c/x" in rest and lead != ["b", "l"]:
        return None  # other sizes in front may take of what is left of the channels
    if lead[1] == "" and "?" in rest:
        return None  # the length is a size that we do not know, so the channels must be stated in full
    return ("b", "l", *("x" for _ in rest)) if rest else None


def _heads_in_batch(arguments: Sequence[Value], layouts: Layouts) -> Layout | None:
    """(b, x, l, x) seen as (bx, l, x): ``x.view(-1, length, width)`` or ``x.view(batch * heads, -1, width)``."""
    if len(arguments) != 3:
        return None
    rows, length, width = map(size_of, arguments)
    is_width = width == "x" or _is_last_part(arguments[2], layouts)
    is_known = (rows, length) in (("?", "l"), ("b*x", "?"), ("b*x", "l"))
    return ("bx", "l", "x") if is_known and is_width else None


def _is_last_part(size: Value, layouts: Layouts) -> bool:
    """``x.size(-1)`` of a tensor whose channels are cut up."""
    size = same_tensor(size)
    is_last = size.op is Op.METHOD and size.name == "size" and len(size.inputs) == 2 and integer(size.inputs[1]) == -1
    layout = layouts.of(size.inputs[0]) if is_last else None
    return layout is not None and layout[-1:] == ("x",)


def _swapped(before: Layout, first: Value, second: Value) -> Layout | None:
    i, j = integer(first), integer(second)
    if i is None or j is None or max(i, j) >= len(before) or min(i, j) < -len(before):
        return None
    order = list(before)
    order[i], order[j] = order[j], order[i]
    return tuple(order)


def _permuted(before: Layout, arguments: Sequence[Value]) -> Layout | None:
    order = list(map(integer, arguments))
    if len(order) != len(before) and None not in order:
        return IMPOSSIBLE
    if len(order) != len(before) or any(index is None or not -len(before) <= index < len(before) for index in order):
        return None
    return tuple(before[index] for index in order if index is not None)


def _indexed(value: Value, before: Layout) -> Layout | None:
    """``x[0]``, ``x[:, :, 0]``, ``x[..., 0, :]``."""
    node = value.node
    if not isinstance(node, cst.Subscript):
        return before[1:] if value.index.isdigit() and before[0] == "x" else None  # unpacked
    parts = [element.slice for element in node.slice]
    left: list[str] = []
    position = 0
    for index, part in enumerate(parts):
        if isinstance(part, cst.Index) and isinstance(part.value, cst.Ellipsis):
            skip = len(before) - position - (len(parts) - index - 1)
            left += before[position : position + skip]
            position += skip
        elif isinstance(part, cst.Slice) and position < len(before):
            left.append(before[position])
            position += 1
        elif isinstance(part, cst.Index) and isinstance(part.value, (cst.Integer, cst.UnaryOperation)):
            if position >= len(before) or before[position] != "x":
                return None
            position += 1
        else:
            return None
    return (*left, *before[position:])
