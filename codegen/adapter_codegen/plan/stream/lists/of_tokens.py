"""What the positions of a list's hidden states have to do with the tokens that the model reads: seen on their way to it.

Mostly each is a token. Something may stand in front of the tokens or behind them, a position may stand for several, and some
lists see no tokens at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.model import StreamForm
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import descendants, dotted_name
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import integer
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Flow, Op, Value, alternatives, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import GATHERING, JOINING, called, first_argument, one_step_back, operand
from adapter_codegen.plan.stream.lists.sign import Sign
from adapter_codegen.plan.stream.lists.spread import spread_out

_PASSED_ON = frozenset({Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.SCALE, Kind.LINEAR, Kind.EMBEDDING})
_TOKENS = frozenset({"input_ids", "inputs_embeds"})
_ALL_TOKENS = _TOKENS | {f"decoder_{name}" for name in _TOKENS}
# Functions of which a result has a position for several that went in.
_POOLING = frozenset(
    {f"{kind}_pool{rank}d" for kind in ("avg", "max") for rank in (1, 2)} | {"scatter_reduce", "scatter_reduce_"}
)
_STRIDED = frozenset({"Conv1d", "Conv2d"})


@dataclass(frozen=True)
class Towards:
    """What a walk back from a list of layers must know.

    Args:
        layer_calls: ids of all calls of layers; what comes out of a layer has the form that went in.
        facts: of the file, with the forwards that the flow did not enter.
    """

    layer_calls: Set[int]
    kinds: Kinds
    facts: ModuleFacts


def tokens_on_the_way(calls: Sequence[Value], towards: Towards) -> Sign | None:
    """What the forward of a model does with its tokens ahead of a list, and between its layers.

    Args:
        calls: of the layers of the list.
    """
    ahead = [first for call in calls if (first := first_argument(call)) is not None]
    seen = set(towards.layer_calls)
    while ahead:
        value = same_tensor(ahead.pop(0))
        if id(value) in seen:
            continue
        seen.add(id(value))
        if sign := _joined(value, towards.kinds) or _padded(value, towards.kinds) or _pooled(value, towards):
            return sign
        if sign := spread_out(value, towards.kinds):
            return sign
        ahead += (*_summands(value, towards.kinds), *_tokens_given(value))
    return None


def _summands(value: Value, kinds: Kinds) -> Sequence[Value]:
    """Where contents come from; of a sum, the parts that show tokens: the others have as many positions."""
    behind = contents_of(value, kinds)
    return [part for part in behind if _is_of_tokens(part, kinds)] or behind if value.is_sum else behind


def no_tokens_on_the_way(flow: Flow, calls: Sequence[Value]) -> Sign | None:
    """Whether a list sees none of the tokens that a model reads: regions of an image, beside a text."""
    known = _inputs(flow.values, flow)
    first = first_argument(calls[0]) if calls else None
    if first is None or not known & _ALL_TOKENS:
        return None
    found = _inputs(ancestors(first).values(), flow)
    return Sign(StreamForm.NO_TOKENS, calls[0].node) if found and not found & _ALL_TOKENS else None


def _inputs(values: Iterable[Value], flow: Flow) -> set[str]:
    """Names of the model's arguments among values."""
    return {value.name for value in values if value.op is Op.PARAMETER and value.frame is flow.root}


# What stands beside tokens --------------------------------------------------------------------------------------------


def _joined(value: Value, kinds: Kinds) -> Sign | None:
    """``cat([image, text], dim=1)``: something is put in front of the tokens, or behind them."""
    parts, given = operand(value, 0, "tensors"), operand(value, 1, "dim")
    if not called(value, *JOINING) or parts is None or given is None or integer(given) not in (1, -2):
        return None
    of_tokens = [_is_of_tokens(part, kinds) for part in _parts(parts)]
    if len(of_tokens) < 2 or not any(of_tokens) or all(of_tokens):
        return None
    return Sign(StreamForm.FOLLOWED if of_tokens[0] else StreamForm.JOINED, value.node)


def _parts(parts: Value) -> Sequence[Value]:
    """The tensors of ``(a, b)``, ``[a, b]`` or ``[a] + others``."""
    if parts.op is Op.TUPLE:
        return parts.inputs
    return [part for operand in parts.inputs for part in _parts(operand)] if parts.is_sum else [parts]


def _padded(value: Value, kinds: Kinds) -> Sign | None:
    """``pad(x, (0, 0, 0, n))``: padding that is not among the tokens of the caller is put behind each row."""
    if not called(value, "pad") or not _is_of_tokens(value.inputs[0] if value.inputs else value, kinds):
        return None
    counts = operand(value, 1, "pad")
    numbers = [integer(count) for count in counts.inputs] if counts is not None and counts.op is Op.TUPLE else []
    is_behind = bool(numbers) and set(numbers[::2]) == {0} and numbers[-1] != 0
    return Sign(StreamForm.FOLLOWED, value.node) if is_behind else None


# What stands for several tokens ---------------------------------------------------------------------------------------


def _pooled(value: Value, towards: Towards) -> Sign | None:
    """What gives fewer positions than it gets; or a module which puts something beside the tokens that it embeds."""
    classes = _opaque_classes(value, towards)
    if not (classes or called(value, *_POOLING)) or not _behind_tokens(value):
        return None
    if called(value, *_POOLING):
        return Sign(StreamForm.GATHERED, value.node)
    for class_name in map(local_class, classes):
        if _gives_fewer(class_name, towards.facts):
            return Sign(StreamForm.GATHERED, value.node)
        if sign := _beside_inside(class_name, towards):
            return sign
    return None


def _opaque_classes(value: Value, towards: Towards) -> tuple[str, ...]:
    """The classes of a module which is called, and whose forward the flow does not show."""
    if value.op is Op.SUBMODULE and value.module is not None and value.through is None:
        return value.module.classes if towards.kinds.of(value.module.classes) is Kind.WORK else ()
    owner = value.inputs[0] if value.op is Op.METHOD and value.inputs else None
    return owner.module.classes if owner is not None and owner.is_module and owner.module is not None else ()


def _behind_tokens(value: Value) -> bool:
    """Whether a value is made of what the model is given as tokens."""
    behind = (one for one in ancestors(value).values() if one.op is Op.PARAMETER and not one.frame.depth)
    return any(one.name in _ALL_TOKENS for one in behind)


def _gives_fewer(class_name: str, facts: ModuleFacts) -> bool:
    """Whether a class holds a convolution that steps over positions, or pools."""
    known = facts.classes.get(class_name)
    if known is None:
        return False
    if any(
        _steps(argument, facts)
        for s in known.submodules.values()
        if _is_strided(s.classes)
        for argument in s.arguments
    ):
        return True
    bodies = (function.node for function in known.functions.values())
    calls = (node for body in bodies for node in descendants(body) if isinstance(node, cst.Call))
    return any(dotted_name(call.func).rpartition(".")[2] in _POOLING for call in calls)


def _is_strided(classes: Sequence[str]) -> bool:
    return {name.rpartition(".")[2] for name in classes} <= _STRIDED


def _steps(argument: cst.Arg, facts: ModuleFacts) -> bool:
    return argument.keyword is not None and argument.keyword.value == "stride" and facts.code(argument.value) != "1"


def _beside_inside(class_name: str, towards: Towards) -> Sign | None:
    """What the forward of embeddings puts beside the tokens."""
    try:
        flow = trace(towards.facts, class_name) if class_name in towards.facts.classes else None
    except TooLarge:
        return None
    given = flow.returned if flow is not None else None
    for returned in alternatives(given) if given is not None else ():
        tensor = returned.inputs[0] if returned.op is Op.TUPLE and returned.inputs else returned
        ahead, seen = [tensor], set[int]()
        while ahead:
            value = same_tensor(ahead.pop())
            if id(value) not in seen:
                seen.add(id(value))
                if sign := _joined(value, towards.kinds):
                    return sign
                ahead += contents_of(value, towards.kinds)
    return None


# The way back ---------------------------------------------------------------------------------------------------------


def _is_of_tokens(value: Value, kinds: Kinds) -> bool:
    """Whether a value is the tokens, what an embedding made of them, or what any module made of the argument of that name."""
    ahead, seen = [value], set()
    while ahead:
        value = same_tensor(ahead.pop())
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.op is Op.PARAMETER and value.name in _ALL_TOKENS:
            return True
        ahead += (*contents_of(value, kinds), *_tokens_given(value))
    return False


def _tokens_given(value: Value) -> Sequence[Value]:
    """The arguments of a module that are called as tokens are."""
    return [argument for name, argument in value.keywords if name in _TOKENS] if value.op is Op.SUBMODULE else ()


def contents_of(value: Value, kinds: Kinds) -> Sequence[Value]:
    """Where the contents of `value` come from; through embeddings and projections too."""
    kind = kinds.of(value.module.classes) if value.op is Op.SUBMODULE and value.module is not None else None
    if kind in _PASSED_ON:
        before = first_argument(value)
        return () if before is None else (before,)
    return () if called(value, *GATHERING) else one_step_back(value, kinds)
