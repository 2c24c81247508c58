"""What the eager attention function of a file does with its arguments: which of them it adds to the scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.attention.core import AttentionCore, Reason, Trouble
from adapter_codegen.plan.attention.kinds.softmax import Softmax
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.tracer import trace_function
from adapter_codegen.plan.flow.values import Op, Value, same_tensor

# Sinks are put behind the last key and cut off again, and the maximum is subtracted: both hold with keys in front.
_HARMLESS = {(Reason.SLICED, ""), (Reason.CALLED, "cat"), (Reason.CALLED, "max"), (Reason.COMBINED, "-")}


@dataclass(frozen=True)
class Added:
    parameters: frozenset[str] = frozenset()  # added to the scores: they have a key dimension
    troubles: tuple[Trouble, ...] = ()


def added_to_scores(facts: ModuleFacts, name: str, kinds: Kinds) -> Added:
    """Read the function `name` of the file; empty where the file does not define it."""
    if name not in facts.functions:
        return Added()
    parameters: set[str] = set()
    troubles: list[Trouble] = []
    for core in _written_out(Scene(facts, trace_function(facts, name), kinds)):
        troubles += [trouble for trouble in core.troubles if (trouble.reason, trouble.detail) not in _HARMLESS]
        for term in core.terms:
            source = _parameter_behind(term.value)
            if term.hides:
                troubles.append(Trouble(Reason.HIDDEN_BY, term.node, facts.code(term.node)))
            elif source is None:
                troubles.append(Trouble(Reason.ADDED_FROM_ELSEWHERE, term.node, facts.code(term.node)))
            elif source != "attention_mask":
                parameters.add(source)
    return Added(frozenset(parameters), tuple(troubles))


def _written_out(scene: Scene) -> Iterator[AttentionCore]:
    softmax = Softmax()
    found = (core for value in scene.flow.values for core in softmax.recognise(value, scene))
    yield from {id(core.call): core for core in found}.values()


def _parameter_behind(value: Value) -> str | None:
    """Name of the parameter that a term is, or is a slice or cast of."""
    for _ in range(12):
        value = same_tensor(value)
        if value.op is Op.PARAMETER:
            return value.name
        if value.op is Op.METHOD and value.name in ("get", "pop") and value.inputs[0].op is Op.PARAMETER:
            key = value.inputs[1]
            return key.literal.strip("\"'") if key.op is Op.CONSTANT else None
        if value.op in (Op.ITEM, Op.METHOD) and value.inputs:
            value = value.inputs[0]
        elif value.op is Op.JOIN:
            found = {_parameter_behind(alternative) for alternative in value.inputs if not alternative.is_none}
            return found.pop() if len(found) == 1 else None
        else:
            return None
    return None
