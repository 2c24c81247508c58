"""The way of the hidden states through a base model: what feeds its first layer, and what takes over from the last.

Only the forwards on the way to the layers are entered; embeddings, layers and poolers are single steps here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Flow, Op, Value, alternatives, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import field_of_output, first_argument, tensor_operands
from adapter_codegen.plan.stream.lists.of_tokens import Towards, no_tokens_on_the_way, tokens_on_the_way
from adapter_codegen.plan.stream.lists.on_the_way import form_on_the_way
from adapter_codegen.plan.stream.lists.padded import padded_on_the_way
from adapter_codegen.plan.stream.lists.picked import picked_on_the_way
from adapter_codegen.plan.stream.lists.sign import Sign
from adapter_codegen.plan.stream.lists.stacks import FoundStack

_PASSED_ON = frozenset({Kind.DROPOUT, Kind.IDENTITY})


@dataclass(frozen=True)
class Stream:
    """Answers about one base model. Paths are "" where the text gives no single answer."""

    embedding_output: str  # path of the module whose output enters the first layer
    mixed: cst.CSTNode | None  # where no single module's output does: the operation that mixes several
    token_embeddings: str  # path of the embedding that the model's forward applies to input_ids
    token_scale: str  # path of the attribute by which a forward multiplies what it embeds itself, and no inputs_embeds
    made_of_tokens: cst.CSTNode | None  # where it makes something else of these tokens alone
    final_norm: str
    shared: frozenset[str]  # stacks whose layers run more than once
    reads_tokens: cst.CSTNode | None  # the call of a layer that is given input_ids too
    beside: (
        cst.CSTNode | None
    )  # what layers are given beside the stream and is made of each token: boxes, other embeddings
    picked: cst.CSTNode | None  # where tokens say which positions behind the layers are read on
    between: cst.CSTNode | None  # where something that does not come out of the stream is added to it behind a layer
    fed_by: tuple[str, ...]  # parameters of the forward that what enters the first layer is made of
    forms: Mapping[str, Sign]  # of stacks whose hidden states are shown to be no rows of positions


def follow_stream(
    facts: ModuleFacts, flow: Flow, stacks: Sequence[FoundStack], main: frozenset[str] = frozenset()
) -> Stream | None:
    """What the forward of the base model does around its layers; None where it cannot be followed to them.

    Args:
        flow: of that forward, as `trace_to_layers` gives it.
        main: those of several stacks that what is returned comes out of. What enters them counts, unless it was made by another
            stack: then they go on with the stream of that.
    """
    calls = {stack.path: layer_calls_of(flow, stack) for stack in stacks}
    ordered = sorted((stack for stack in stacks if calls[stack.path]), key=lambda stack: calls[stack.path][0][0])
    if not ordered:
        return None
    kinds = Kinds(facts)
    ids = {id(call) for found in calls.values() for _, call in found}
    source = _Source(flow, kinds, ids)
    on_stream = [stack for stack in ordered if stack.path in main] or ordered
    if _goes_on(first_argument(calls[on_stream[0].path][0][1]), source, ids):
        on_stream = ordered
    path, mixed = source.of(calls[on_stream[0].path][0][1])
    layer_calls = [call for found in calls.values() for _, call in found]
    tokens = _token_embeddings(flow, kinds, layer_calls)
    aside = Aside(flow, kinds, layer_calls, {path, tokens})
    scale, made = only_of_tokens(flow, kinds)
    towards = Towards(ids, kinds, facts)
    return Stream(
        embedding_output=path,
        mixed=mixed,
        token_embeddings=tokens,
        token_scale=scale,
        made_of_tokens=made,
        final_norm=_final_norm(flow, kinds, [call for _, call in calls[on_stream[-1].path]]),
        shared=frozenset(stack.path for stack in stacks if _is_shared(facts, flow, stack)),
        reads_tokens=_reads_tokens(flow, layer_calls),
        beside=aside.beside(),
        picked=aside.picked(),
        between=aside.between(),
        fed_by=_fed_by(flow, path),
        forms={path: sign for path, found in calls.items() if (sign := _form(found, flow, towards)) is not None},
    )


def trace_to_layers(facts: ModuleFacts, base: str, stacks: Sequence[FoundStack]) -> Flow | None:
    """The flow of the base model's forward, in which only the owners of stacks are looked into."""
    opened = {owner for stack in stacks for owner in stack.owners}
    classes = {
        name: known if name in opened else replace(known, functions={}) for name, known in facts.classes.items()
    }
    try:
        return trace(replace(facts, classes=classes), base)
    except TooLarge:
        return None


def layer_calls_of(flow: Flow, stack: FoundStack) -> list[tuple[int, Value]]:
    """The calls of elements of a stack, with their places in the order of evaluation."""
    return [
        (index, value)
        for index, value in enumerate(flow.values)
        if value.op is Op.SUBMODULE and value.path.rpartition(".")[0] == stack.path
    ]


def _form(found: Sequence[tuple[int, Value]], flow: Flow, towards: Towards) -> Sign | None:
    """The form of what enters a stack for the first time, where the way there shows it."""
    calls = [call for _, call in found]
    first = first_argument(calls[0]) if calls else None
    if first is None:
        return None
    form = form_on_the_way(first, towards.layer_calls, towards.kinds) or tokens_on_the_way(calls, towards)
    form = form or picked_on_the_way(first, towards.layer_calls, towards.kinds) or padded_on_the_way(calls, towards)
    return form or no_tokens_on_the_way(flow, calls)


def earlier(value: Value) -> Iterator[Value]:
    """The values of which `value` is a view, a copy, an element or one alternative."""
    if value.op is Op.JOIN:
        yield from value.choices
    elif value.op in {Op.ITEM, Op.ATTRIBUTE} and field_of_output(value) is not None:
        field = field_of_output(value)
        assert field is not None
        yield field
    elif value.op in {Op.ITEM, Op.ATTRIBUTE, Op.METHOD} or _drops_out(value):
        yield from value.inputs[:1]
    elif value.op is Op.BINARY and value.operator in {"*", "/"}:
        yield from tensor_operands(value)  # not what a factor is made of: ``x * size**0.5``


def _drops_out(value: Value) -> bool:
    return value.op is Op.FUNCTION and value.name.rpartition(".")[2] == "dropout"


class _Source:
    """Which module the input of the first layer comes out of."""

    def __init__(self, flow: Flow, kinds: Kinds, layer_calls: set[int]) -> None:
        self.kinds = kinds
        self.layer_calls = layer_calls
        self.counts = Counter(value.path for value in flow.values if value.op is Op.SUBMODULE)

    def of(self, layer_call: Value) -> tuple[str, cst.CSTNode | None]:
        start = first_argument(layer_call)
        found: dict[str, None] = {}
        pending, seen = [start] if start is not None else [], set()
        while pending:
            value = same_tensor(pending.pop())
            if id(value) in seen or id(value) in self.layer_calls:
                continue
            seen.add(id(value))
            if value.op is Op.BINARY and value.operator not in {"*", "/"}:
                return "", value.node
            if value.op is Op.SUBMODULE:
                before = first_argument(value) if self._is_step(value) else None
                if before is None:
                    found[value.path] = None
                else:
                    pending.append(before)
            else:
                pending.extend(earlier(value))
        return (next(iter(found)) if len(found) == 1 else ""), None

    def behind(self, start: Value) -> Iterator[Value]:
        """The calls of modules and layers, and the mixes, that a value comes out of."""
        pending, seen = [start], set[int]()
        while pending:
            value = same_tensor(pending.pop())
            if id(value) in seen:
                continue
            seen.add(id(value))
            if id(value) in self.layer_calls or value.op is Op.SUBMODULE or value.is_sum:
                yield value
            else:
                pending.extend(earlier(value))

    def _is_step(self, call: Value) -> bool:
        """A projection of embeddings is not their output, and a module that runs elsewhere too cannot stand for it."""
        classes = call.module.classes if call.module else ()
        return self.kinds.of(classes) is Kind.LINEAR or self.counts[call.path] > 1


def _goes_on(start: Value | None, source: _Source, layer_calls: set[int]) -> bool:
    """Whether all that a value comes out of was made of what layers gave: a second encoder behind the first (CANINE), a decoder of
    what is pooled (VideoPrism). A sum, or an embedding of tokens beside it, has a source of its own."""
    found = [] if start is None else list(source.behind(start))
    return bool(found) and all(
        id(one) in layer_calls or (not one.is_sum and not layer_calls.isdisjoint(ancestors(one))) for one in found
    )


def _reads_tokens(flow: Flow, layer_calls: Sequence[Value]) -> cst.CSTNode | None:
    """The first call of a layer that gets the parameter ``input_ids`` of the base model."""
    for call in layer_calls:
        given = (*call.inputs, *(value for key, value in call.keywords if key != "**"))
        if any(_is_tokens(origin, flow) for value in given for origin in alternatives(value)):
            return call.node
    return None


def _is_tokens(value: Value, flow: Flow) -> bool:
    return value.op is Op.PARAMETER and value.frame is flow.root and value.name == "input_ids"


def _token_embeddings(flow: Flow, kinds: Kinds, layer_calls: Sequence[Value]) -> str:
    """The embedding that is called on the parameter ``input_ids`` of the base model.

    One that layers are given beside their stream (values of each token, say) is another table.
    """
    beside = _beside_stream(layer_calls)
    found = (value for value in flow.values if id(value) not in beside and embeds_tokens(value, flow, kinds))
    return next((value.path for value in found), "")


def _fed_by(flow: Flow, path: str) -> tuple[str, ...]:
    """The parameters of the base model's forward that come into the module at `path`."""
    calls = (value for value in flow.values if value.op is Op.SUBMODULE and value.path == path)
    starts = (argument for call in calls for argument in (first_argument(call),) if argument is not None)
    before = (value for start in starts for value in ancestors(start).values())
    return tuple(dict.fromkeys(one.name for one in before if one.op is Op.PARAMETER and one.frame is flow.root))


def embeds_tokens(value: Value, flow: Flow, kinds: Kinds) -> bool:
    """Whether a value is the call of an embedding on ``input_ids``."""
    if value.op is not Op.SUBMODULE or not value.module or kinds.of(value.module.classes) is not Kind.EMBEDDING:
        return False
    pending = [argument for argument in (first_argument(value),) if argument is not None]
    while pending:
        origin = same_tensor(pending.pop())
        if _is_tokens(origin, flow):
            return True
        pending.extend(earlier(origin))
    return False


def only_of_tokens(flow: Flow, kinds: Kinds) -> tuple[str, cst.CSTNode | None]:
    """What a forward makes of tokens where it embeds them itself, and of ``inputs_embeds`` not.

    Returns:
        The path of the attribute that it multiplies them by, "" where there is none; and where it does something else.
    """
    for value in flow.values:
        if value.op is not Op.JOIN or not any(_is_given_embeddings(choice, flow) for choice in value.choices):
            continue
        for choice in value.choices:
            made = _unmoved(choice)
            if not any(embeds_tokens(one, flow, kinds) for one in ancestors(made).values()):
                continue
            if embeds_tokens(made, flow, kinds):
                continue
            scale = _scale(made, flow, kinds)
            return scale, None if scale else made.node
    return "", None


def _is_given_embeddings(value: Value, flow: Flow) -> bool:
    origin = same_tensor(value)
    return origin.op is Op.PARAMETER and origin.frame is flow.root and origin.name == "inputs_embeds"


def _unmoved(value: Value) -> Value:
    """A tensor before ``.to(device)``."""
    value = same_tensor(value)
    while value.op is Op.METHOD and value.name == "to":
        value = same_tensor(value.inputs[0])
    return value


def _scale(value: Value, flow: Flow, kinds: Kinds) -> str:
    """``self.embed_scale`` of ``self.embed_tokens(input_ids) * self.embed_scale``, as a path from the base model."""
    if value.op is not Op.BINARY or value.operator != "*":
        return ""
    for tokens, factor in (value.inputs, value.inputs[::-1]):
        if embeds_tokens(_unmoved(tokens), flow, kinds):
            return attribute_path(factor)
    return ""


def attribute_path(value: Value) -> str:
    """``config.scale`` of ``self.config.scale``, from the base model; "" where it is nothing of ``self``."""
    names = list[str]()
    while value.op is Op.ATTRIBUTE:
        names.append(value.name)
        value = same_tensor(value.inputs[0])
    return ".".join(filter(None, (value.path, *reversed(names)))) if names and value.op is Op.SELF else ""


def _beside_stream(layer_calls: Sequence[Value]) -> set[int]:
    """The values of which something goes into other arguments of layers, and nothing into the first."""
    streams = [argument for call in layer_calls if (argument := first_argument(call)) is not None]
    given = [value for call in layer_calls for value in (*call.inputs, *(value for _, value in call.keywords))]
    stream = _behind(streams)
    return _behind([value for value in given if id(value) not in stream]) - stream


def _behind(values: Sequence[Value]) -> set[int]:
    """All that `values` are computed from, and these themselves."""
    pending, seen = list(values), set[int]()
    while pending:
        value = pending.pop()
        if id(value) not in seen:
            seen.add(id(value))
            pending += [*value.inputs, *value.choices, *(given for _, given in value.keywords)]
    return seen


class Aside:
    """What reaches the layers by another way than the stream, and has an entry for each position but none for a prompt.

    Args:
        entrance: paths of the modules that the stream comes out of.
    """

    def __init__(self, flow: Flow, kinds: Kinds, layer_calls: Sequence[Value], entrance: set[str]) -> None:
        self._flow = flow
        self._kinds = kinds
        self._calls = layer_calls
        self._layers = {id(call) for call in layer_calls}
        self._entrance = entrance

    def beside(self) -> cst.CSTNode | None:
        """The call of a module that makes something of each token, which a layer is given too."""
        for call in self._calls:
            stream = first_argument(call)
            given = (*call.inputs, *(value for key, value in call.keywords if key != "**"))
            for value in given:
                behind = {} if value is stream else self._behind(value)
                made = (one for one in behind.values() if one.op is Op.SUBMODULE and not self._is_stream(one))
                if found := next(filter(self._reads_each_token, made), None):
                    return found.node
        return None

    def picked(self) -> cst.CSTNode | None:
        """``states[rows, input_ids.argmax(-1)]``, of what came out of the layers: positions are counted without a prompt."""
        for value in self._flow.values:
            if value.op is not Op.ITEM or not self._layers & ancestors(value.inputs[0]).keys():
                continue
            by = (one for index in value.inputs[1:] for one in ancestors(index, lambda one: one.is_metadata).values())
            if any(_is_tokens(one, self._flow) for one in by):
                return value.node
        return None

    def between(self) -> cst.CSTNode | None:
        """The addition, behind a layer, of what a module gave that read nothing of the stream."""
        for value in self._flow.values:
            for stream, other in (value.inputs, value.inputs[::-1]) if value.is_sum else ():
                if not _comes_from(stream, self._layers, self._kinds):
                    continue
                behind = ancestors(other, lambda one: one.is_metadata).values()
                if any(one.op is Op.SUBMODULE for one in behind) and not any(map(self._is_stream, behind)):
                    return value.node
        return None

    def _is_stream(self, value: Value) -> bool:
        return id(value) in self._layers or (value.op is Op.SUBMODULE and value.path in self._entrance)

    def _behind(self, value: Value) -> dict[int, Value]:
        """What `value` was made of beside the stream."""
        return ancestors(value, lambda one: one.is_metadata or self._is_stream(one))

    def _reads_each_token(self, call: Value) -> bool:
        """Another table of tokens, or what looks at the box of each."""
        boxes = (one.op is Op.PARAMETER and one.name == "bbox" for one in self._behind(call).values())
        return embeds_tokens(call, self._flow, self._kinds) or any(boxes)


def _final_norm(flow: Flow, kinds: Kinds, layer_calls: Sequence[Value]) -> str:
    """The first norm that is called on what the last stack's layers gave."""
    layers = {id(call) for call in layer_calls}
    for value in flow.values:
        if value.op is Op.SUBMODULE and id(value) not in layers and value.module:
            argument = first_argument(value)
            if kinds.of(value.module.classes) is Kind.NORM and argument and _comes_from(argument, layers, kinds):
                return value.path
    return ""


def _comes_from(value: Value, layers: set[int], kinds: Kinds) -> bool:
    pending, seen = [value], set()
    while pending:
        value = same_tensor(pending.pop())
        if id(value) in layers:
            return True
        if id(value) in seen:
            continue
        seen.add(id(value))
        passed_on = value.op is Op.SUBMODULE and value.module and kinds.of(value.module.classes) in _PASSED_ON
        argument = first_argument(value) if passed_on else None
        pending.extend([argument] if argument is not None else earlier(value))
    return False


def _is_shared(facts: ModuleFacts, flow: Flow, stack: FoundStack) -> bool:
    """Whether a list on the path is indexed by something else than the counter of a loop."""
    parts = stack.path.split(".*")
    lists = {".*".join(parts[: count + 1]) for count in range(len(parts))}
    for value in flow.values:
        if value.op is Op.MODULE and isinstance(value.node, cst.Subscript) and value.path.rpartition(".")[0] in lists:
            index = value.node.slice[0].slice
            if isinstance(index, cst.Index) and not _counts(facts, value, index.value):
                return True
    return False


def _counts(facts: ModuleFacts, value: Value, index: cst.BaseExpression) -> bool:
    """Whether an index is a number, a loop's own variable, or that plus or minus something."""
    if isinstance(index, cst.BinaryOperation) and isinstance(index.operator, cst.Add | cst.Subtract):
        return _counts(facts, value, index.left) and _counts(facts, value, index.right)
    if isinstance(index, cst.UnaryOperation | cst.Integer):
        return True
    if not isinstance(index, cst.Name):
        return False
    owner = facts.classes.get(value.frame.owner)
    function = owner.functions.get(value.frame.function) if owner else None
    loops = _loop_variables(function.node) if function else set()
    return index.value in loops


def _loop_variables(function: cst.FunctionDef) -> set[str]:
    visitor = _Loops()
    function.visit(visitor)
    return visitor.names


class _Loops(cst.CSTVisitor):
    """Names that the loops and comprehensions of a function bind."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def visit_For(self, node: cst.For) -> None:
        self._bind(node.target)

    def visit_CompFor(self, node: cst.CompFor) -> None:
        self._bind(node.target)

    def _bind(self, target: cst.BaseExpression) -> None:
        if isinstance(target, cst.Name):
            self.names.add(target.value)
        elif isinstance(target, cst.Tuple):
            for element in target.elements:
                self._bind(element.value)
