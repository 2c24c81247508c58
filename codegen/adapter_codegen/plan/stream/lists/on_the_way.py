"""What the way of the hidden states through a model to its first layer shows of their form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

import libcst as cst

from adapter_codegen.model import StreamForm
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import flat_arguments, integer
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import (
    CASTS,
    DROPOUTS,
    VIEWS,
    called,
    first_argument,
    last_name,
    tensor_operands,
)
from adapter_codegen.plan.stream.additions.pieces import joined_streams
from adapter_codegen.plan.stream.lists.sign import RANK, Sign

_PASSED_ON = frozenset({Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.SCALE, Kind.LINEAR})
_REPEATS_EACH = frozenset({"expand", "repeat", "tile"})  # with a number for each dimension
_REPEATS = frozenset({"expand", "repeat", "tile", "expand_as", "broadcast_to", "repeat_interleave"})


@dataclass(frozen=True)
class _Place:
    """What is known of the hidden states of a layer, seen from a value on their way to it."""

    batch: int = 0  # the dimension that becomes the layer's first
    more: int = 0  # how many dimensions the layer's have more
    turned: cst.CSTNode | None = None  # the last step that was met and changed either
    are_tokens: bool = False  # what is embedded behind the value, and turned no more


def form_on_the_way(first: Value, layer_calls: Set[int], kinds: Kinds) -> Sign | None:
    """What the forward of a model shows of the form of what enters its layers.

    Args:
        first: the hidden states in the call of a layer.
        layer_calls: ids of all such calls; what comes out of a layer has the form that went in.
    """
    return _Way(layer_calls, kinds).sign(first, _Place(), frozenset())


class _Way:
    """A walk from a layer back to its inputs that keeps count of dimensions. All alternatives must show the same form."""

    def __init__(self, layer_calls: Set[int], kinds: Kinds) -> None:
        self.layer_calls = layer_calls
        self.kinds = kinds

    def sign(self, value: Value, place: _Place, seen: frozenset[int]) -> Sign | None:
        if place.turned is not None and place.more and _is_given_embeddings(value):
            return Sign(StreamForm.OTHER, place.turned)
        value = same_tensor(value)
        if id(value) in seen:
            return None
        seen |= {id(value)}
        if value.op is Op.JOIN:
            choices = [one for one in value.choices if not self._is_output(one) and not _is_not_given(one, value)]
            return self._of_all(choices, place, seen)
        if value.op is Op.BINARY:  # a summand of fewer dimensions, or with a batch of one, is spread over the other
            summands = [self.sign(operand, place, seen) for operand in tensor_operands(value)]
            return _of_more(summands) or _common(summands)
        if parts := joined_streams(value):  # as many dimensions as each part has; of which one grows is not looked at
            return _of_more([self.sign(part, place, seen) for part in parts])
        if called(value, *_REPEATS_EACH) and len(list(flat_arguments(value.inputs[1:]))) + place.more > RANK:
            return Sign(StreamForm.OTHER, value.node)
        before = self._before(value, place)
        if self._embeds(value):
            place = replace(place, are_tokens=place.turned is None)
        found = _turned(value, place) if before is not None else None
        if isinstance(found, Sign):
            return found
        return self._at_the_end(value, place) if found is None or before is None else self.sign(before, found, seen)

    def _is_output(self, value: Value) -> bool:
        """Whether a value is what a layer gave, perhaps turned around and back: what went in is looked at elsewhere."""
        return any(id(one) in self.layer_calls for one in _line(value))

    def _of_all(self, values: Sequence[Value], place: _Place, seen: frozenset[int]) -> Sign | None:
        return _common([self.sign(value, place, seen) for value in values])

    def _embeds(self, value: Value) -> bool:
        is_call = value.op is Op.SUBMODULE and value.module is not None
        return is_call and value.module is not None and self.kinds.of(value.module.classes) is Kind.EMBEDDING

    def _before(self, value: Value, place: _Place) -> Value | None:
        """The tensor that a step works on, where it gives its entries again, or projects them."""
        if value.op is Op.SUBMODULE:
            kind = self.kinds.of(value.module.classes) if value.module is not None else Kind.WORK
            passes = kind in _PASSED_ON or (self._embeds(value) and not place.more)  # tokens as its output has them
            return first_argument(value) if passes else None
        is_step = value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in VIEWS | CASTS | DROPOUTS
        return value.inputs[0] if is_step and value.inputs else None

    def _at_the_end(self, value: Value, place: _Place) -> Sign | None:
        """Where the walk ends, whatever stands there has the batch first; embeddings of tokens have three dimensions."""
        if place.turned is None:
            return None
        if place.more:
            is_embedding = value.module is not None and self.kinds.of(value.module.classes) is Kind.EMBEDDING
            return Sign(StreamForm.OTHER, place.turned) if is_embedding else None
        return Sign(StreamForm.LENGTH_FIRST, place.turned, place.are_tokens) if place.batch else None


def _common(found: Sequence[Sign | None]) -> Sign | None:
    """The form that all show."""
    forms = {sign.form if sign is not None else None for sign in found}
    of_tokens = (sign for sign in found if sign is not None and sign.is_of_tokens)  # beside embeddings that are given
    return next(of_tokens, found[0]) if len(forms) == 1 else None


def _of_more(found: Sequence[Sign | None]) -> Sign | None:
    """The sign of one with more dimensions than rows have, if there is any: the result has them too."""
    return next((sign for sign in found if sign is not None and sign.form is StreamForm.OTHER), None)


def _is_not_given(value: Value, choices: Value) -> bool:
    """Whether an alternative is an argument that is None by default, and another one is it, turned: what is given is turned."""
    is_optional = isinstance(value.node, cst.Param) and dotted_name(value.node.default or value.node) == "None"
    is_argument = value.op is Op.PARAMETER and not value.frame.depth and is_optional
    return is_argument and any(_is_turned(one, value) for one in choices.choices if one is not value)


def _is_turned(value: Value, given: Value) -> bool:
    """``given.transpose(0, 1).contiguous()``: of the same dimensions."""
    while called(value, "transpose", "swapaxes", "contiguous") and value.op is Op.METHOD:
        value = same_tensor(value.inputs[0])
    return value is given


def _is_given_embeddings(value: Value) -> bool:
    """Whether a value comes in as ``inputs_embeds``, which has three dimensions whatever stands behind it."""
    while value.op is Op.PARAMETER and value.name != "inputs_embeds" and value.through is not None:
        value = value.through
    return value.op is Op.PARAMETER and value.name == "inputs_embeds"


def _line(value: Value) -> Iterator[Value]:
    """A value and what it is a view, a copy or an element of, as long as that is one."""
    while True:
        value = same_tensor(value)
        yield value
        if value.op not in (Op.METHOD, Op.FUNCTION, Op.ITEM) or not value.inputs:
            return
        value = value.inputs[0]


def _turned(value: Value, place: _Place) -> _Place | Sign | None:
    """The place in front of a step; a sign where the step shows the form, None where nothing is known in front of it."""
    name = last_name(value) if value.op in (Op.METHOD, Op.FUNCTION) else ""
    numbers = [integer(argument) for argument in flat_arguments(value.inputs[1:])]
    if name in ("transpose", "swapaxes", "swapdims"):
        return _swapped(value, numbers, place)
    if name == "permute":
        return _permuted(value, numbers, place)
    if name == "unsqueeze":
        return _inserted(value, numbers, place)
    if name in _REPEATS:  # a batch may be made here
        return place if numbers[:1] == [-1] else None
    return None if name in VIEWS - {"contiguous"} else place


def _swapped(value: Value, numbers: Sequence[int | None], place: _Place) -> _Place | None:
    known = [number for number in numbers if number is not None and number >= 0]
    if len(known) != 2:
        return None
    one, other = known
    batch = {one: other, other: one}.get(place.batch, place.batch)
    return place if batch == place.batch else replace(place, batch=batch, turned=value.node)


def _permuted(value: Value, numbers: Sequence[int | None], place: _Place) -> _Place | Sign | None:
    known = [number for number in numbers if number is not None and number >= 0]
    if len(known) != len(numbers) or place.batch >= len(known):
        return None
    if len(known) + place.more > RANK:
        return Sign(StreamForm.OTHER, value.node)
    batch = known[place.batch]
    return place if batch == place.batch else replace(place, batch=batch, turned=value.node)


def _inserted(value: Value, numbers: Sequence[int | None], place: _Place) -> _Place | Sign | None:
    if len(numbers) != 1 or numbers[0] is None:
        return None
    if numbers[0] == place.batch:
        return Sign(StreamForm.PACKED, value.node)
    batch = place.batch - (0 <= numbers[0] < place.batch)
    return replace(place, batch=batch, more=place.more + 1, turned=value.node)
