"""Where the embeddings of tokens come into what enters the first layer, if no one module gives all of that.

An invertible adapter makes another table out of the table of tokens. So it can stand at the table itself, and whatever is
added further on needs not be known, on two conditions. Whoever embeds tokens must treat embeddings that it is given
like those of tokens, but for a factor. And what is added must not be made of their values: positions are counted, or follow
from the shape. Where either does not show, the place is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Flow, How, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import called, first_argument, is_scalar
from adapter_codegen.plan.stream.entrance.way import attribute_path, earlier

_IDS = frozenset({"input_ids", "decoder_input_ids"})
_GIVEN = "inputs_embeds"
_STEPS = frozenset(
    {Kind.LINEAR, Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.ACTIVATION, Kind.SCALE, Kind.CONVOLUTION}
)
_SHAPES = ("size", "dim", "numel", "zeros_like", "ones_like", "new_zeros", "new_ones", "get_seq_length")
_ALIKE = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})  # the argument says how, not what


@dataclass(frozen=True)
class TokenTable:
    """The table that tokens are embedded by on their way to the first layer."""

    path: str
    scale: str = (
        ""  # attribute of the module around it that multiplies what it gives, and no embeddings that are given
    )
    obstacle: cst.CSTNode | None = None  # where it shows that an invertible adapter cannot stand there


def find_token_table(
    facts: ModuleFacts, flow: Flow, calls: Sequence[Sequence[Value]], named: str, classes: Sequence[str]
) -> TokenTable | None:
    """The table on the way to the first stack that tokens reach; None where they reach none.

    Args:
        calls: of the layers of each stack, in the order in which they run.
        named: path of the table that the model names as its own, and `classes` that it may have. An encoder may have another
            of the same class, whose weights upstream ties to those.
    """
    kinds = Kinds(facts)
    tables = [value for value in flow.values if _ids_of(value, kinds) and _is_of(value, named, classes)]
    layers = {id(call) for found in calls for call in found}
    for start in (first_argument(found[0]) for found in calls if found):
        if start is None:
            continue
        behind = _contents(start, lambda value: id(value) in layers)
        paths = {table.path for table in tables if id(table) in behind}
        path = named if named in paths else next(iter(paths), "")
        if len(paths) == 1 or path == named:
            return _Way(facts, flow, kinds, layers, path).judged(start)
        if paths:
            return TokenTable(path, obstacle=start.node)
    return None


def _is_of(call: Value, named: str, classes: Sequence[str]) -> bool:
    return call.path == named or (call.module is not None and bool(classes) and call.module.classes == tuple(classes))


def _ids_of(value: Value, kinds: Kinds) -> set[str]:
    """The parameters with tokens, of the encoder or of the decoder, that a value is the call of an embedding on."""
    if value.op is not Op.SUBMODULE or not value.module or kinds.of(value.module.classes) is not Kind.EMBEDDING:
        return set()
    pending = [argument for argument in (first_argument(value),) if argument is not None]
    found, seen = set[str](), set[int]()
    while pending:
        origin = same_tensor(pending.pop())
        if origin.op is Op.PARAMETER and origin.name in _IDS:
            found.add(origin.name)
        elif id(origin) not in seen:
            seen.add(id(origin))
            pending.extend(earlier(origin))
    return found


def _has_no_contents(value: Value) -> bool:
    """Whether nothing of the contents of what it is made of comes into a value: ``x.shape``, ``torch.ones_like(x)``."""
    return value.is_metadata or called(value, *_SHAPES)


def _origins(value: Value) -> tuple[Value, ...]:
    """What the contents of a value come from, one step back."""
    if _has_no_contents(value):
        return ()
    if value.through is not None:  # what a call returned, which need not be made of all that it was given
        return (value.through,)
    return value.inputs[:1] if value.op is Op.METHOD and value.name in _ALIKE else value.origins()


def _contents(value: Value, stop: Callable[[Value], bool] = lambda _: False) -> dict[int, Value]:
    """`value` and all that its contents come from; nothing behind a value at which `stop` holds."""
    found: dict[int, Value] = {}
    todo = [value]
    while todo:
        value = todo.pop()
        if id(value) not in found:
            found[id(value)] = value
            todo.extend(() if stop(value) else _origins(value))
    return found


class _Way:
    """From the first layer back to one table."""

    def __init__(self, facts: ModuleFacts, flow: Flow, kinds: Kinds, layers: Set[int], path: str) -> None:
        self._facts = facts
        self._kinds = kinds
        self._layers = layers
        self._path = path
        self._owner = path.rpartition(".")[0]
        calls = [value for value in flow.values if value.op is Op.SUBMODULE and value.path == path]
        # Embeddings that stand for what these calls embed are not those that the module around the table is given.
        outside = [call for call in calls if call.frame.path != self._owner]
        others = [call for call in calls if _ids_of(call, kinds) - _ids_of(calls[0], kinds)]
        self._outside = next(iter((*outside, *others)), None)
        self._scales: dict[str, cst.CSTNode] = {}

    def judged(self, start: Value) -> TokenTable:
        """The table, with what is wrong on the way from it to `start`."""
        if self._outside is not None:
            return TokenTable(self._path, obstacle=self._outside.node)
        obstacle = next(self._obstacles(start), None)
        if obstacle is None and len(self._scales) > 1:
            obstacle = next(iter(self._scales.values()))
        return TokenTable(self._path, next(iter(self._scales), ""), obstacle)

    def _obstacles(self, start: Value) -> Iterator[cst.CSTNode]:
        pending, seen = [start], set[int]()
        while pending:
            value = self._behind_calls(pending.pop())
            if id(value) in seen or self._is_end(value):
                continue
            seen.add(id(value))
            if value.op is Op.JOIN and self._chooses(value):
                yield from self._unlike(value)
                pending.extend(self._goes_on(value))
            elif self._is_closed(value):
                yield from self._of_values(value)
                pending.extend(one for one in _origins(value) if not self._holds_tokens(one))
            else:
                if self._meets_itself(value) or self._is_unknown(value):
                    yield value.node
                pending.extend(_origins(value))

    def _behind_calls(self, value: Value) -> Value:
        """`same_tensor`, but for embeddings that the module around the table is given."""
        while value.through is not None and value.op is not Op.FUNCTION and not self._is_given(value):
            value = value.through
        return value

    def _is_given(self, value: Value) -> bool:
        is_parameter = value.op is Op.PARAMETER and value.name == _GIVEN
        return is_parameter and (value.frame.path, value.frame.function) == (self._owner, "forward")

    def _is_table(self, value: Value) -> bool:
        return value.op is Op.SUBMODULE and value.path == self._path

    def _is_end(self, value: Value) -> bool:
        return self._is_given(value) or self._is_table(value) or _has_no_contents(value) or id(value) in self._layers

    def _is_closed(self, value: Value) -> bool:
        """Whether a value is the call of a module that is no step of the stream: `_of_values` judges it."""
        return value.op is Op.SUBMODULE and value.through is None and not self._is_step(value)

    def _holds_tokens(self, value: Value) -> bool:
        """Whether contents of embeddings of tokens come into a value."""
        behind = _contents(value, lambda one: self._is_end(one) or self._is_closed(one)).values()
        return any(self._is_given(one) or self._is_table(one) for one in behind)

    def _is_step(self, call: Value) -> bool:
        return call.module is not None and self._kinds.of(call.module.classes) in _STEPS

    def _meets_itself(self, value: Value) -> bool:
        """Whether a value is made of embeddings of tokens in two ways, or is a comparison of them: of ``x + self.f(x)`` the text
        does not show which is the stream."""
        if value.how is How.COMPARISON:
            return self._holds_tokens(value)
        several = value.inputs if value.op is Op.BINARY else ()
        return sum(map(self._holds_tokens, several)) > 1

    def _is_unknown(self, value: Value) -> bool:
        """Whether something that the text does not show is done with embeddings of tokens."""
        is_own = value.op is Op.METHOD and value.inputs[0].op is Op.SELF
        is_unknown = value.through is None and (is_own or value.op is Op.CALL)
        return is_unknown and any(map(self._holds_tokens, value.origins()))

    def _of_values(self, call: Value) -> Iterator[cst.CSTNode]:
        """The call of a module that is no step of the stream (of a table of positions), if it reads values of embeddings of tokens."""
        given: tuple[tuple[int | str, Value], ...] = (*enumerate(call.inputs), *call.keywords)
        read = [key for key, value in given if self._holds_tokens(value)]
        classes = call.module.classes if call.module else ()
        if read and not all(self._reads_only_shapes(local_class(name), read) for name in classes):
            yield call.node

    def _reads_only_shapes(self, class_name: str, read: Sequence[int | str]) -> bool:
        """Whether what a class of this file returns is made of nothing but the shapes of some of its arguments."""
        known = self._facts.classes.get(class_name)
        forward = known.functions.get("forward") if known else None
        if forward is None:
            return False
        names = {forward.parameters[key] if isinstance(key, int) else key for key in read}
        if not names <= {*forward.parameters}:
            return False
        try:
            flow = trace(self._facts, class_name)
        except TooLarge:
            return False
        if flow is None or flow.returned is None:
            return False
        behind = _contents(flow.returned).values()
        return not any(one.op is Op.PARAMETER and one.frame is flow.root and one.name in names for one in behind)

    # Tokens, or what stands for them

    def _leaves(self, join: Value) -> Iterator[Value]:
        for choice in join.choices:
            value = self._behind_calls(choice)
            if value.op is Op.JOIN:
                yield from self._leaves(value)
            else:
                yield value

    def _chooses(self, join: Value) -> bool:
        """Whether a value may be what is given in the place of tokens, or something made of that and not of tokens."""
        return any(self._sides(leaf) == (False, True) for leaf in self._leaves(join))

    def _unlike(self, join: Value) -> Iterator[cst.CSTNode]:
        """Where one of both is treated in another way than the other, but for a factor of what is embedded."""
        found = [self._multiplied(leaf) for leaf in self._leaves(join)]
        given = {factors for origin, factors in found if self._is_given(origin)}
        for origin, factors in found:
            if self._is_given(origin):
                continue
            if not self._is_table(origin):
                if self._is_of_one(origin):
                    yield origin.node
            elif given == {()} and len(factors) == 1 and factors[0]:
                self._scales[factors[0]] = origin.node
            elif given != {factors}:
                yield origin.node

    def _goes_on(self, join: Value) -> Iterator[Value]:
        """What else such a value may be: another source, or what was made of both."""
        origins = (self._multiplied(leaf)[0] for leaf in self._leaves(join))
        return (one for one in origins if not self._is_end(one) and not self._is_of_one(one))

    def _is_of_one(self, value: Value) -> bool:
        is_embedded, is_given = self._sides(value)
        return is_embedded != is_given

    def _sides(self, value: Value) -> tuple[bool, bool]:
        """Whether a value is made of embeddings of tokens, and whether of those that are given."""
        behind = _contents(value, self._is_end).values()
        return any(map(self._is_table, behind)), any(map(self._is_given, behind))

    def _multiplied(self, value: Value) -> tuple[Value, tuple[str, ...]]:
        """What a value is a multiple of, and by what: attributes as paths from the module around the table, "" for other numbers."""
        factors: list[str] = []
        while True:
            value = self._behind_calls(value)
            if value.op is Op.METHOD and value.name == "to":
                value = value.inputs[0]
                continue
            tensors = [one for one in value.inputs if not is_scalar(one)] if value.op is Op.BINARY else []
            if value.operator != "*" or len(tensors) != 1:
                return value, tuple(factors)
            factor = next(one for one in value.inputs if one is not tensors[0])
            factors.append(attribute_path(factor).removeprefix(f"{self._owner}."))
            value = tensors[0]
