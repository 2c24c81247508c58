"""What the eager attention function of a file does with its arguments: which of them it adds to the scores."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.attention.cores import find_meetings
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.tracer import trace_function
from adapter_codegen.plan.flow.values import Op, Value, same_tensor


@dataclass(frozen=True)
class Added:
    parameters: frozenset[str] = frozenset()  # added to the scores: they have a key dimension
    troubles: tuple[tuple[str, cst.CSTNode], ...] = ()


# Sinks are put behind the last key and cut off again, and the maximum is subtracted: both hold with keys in front.
_HARMLESS = (
    "a slice of the scores",
    "the scores go through `cat`",
    "the scores are combined with a tensor by `-`",
    "`max`",
)


def added_to_scores(facts: ModuleFacts, name: str, kinds: Kinds) -> Added:
    """Read the function `name` of the file; empty where the file does not define it."""
    if name not in facts.functions:
        return Added()
    flow = trace_function(facts, name)
    parameters: set[str] = set()
    troubles: list[tuple[str, cst.CSTNode]] = []
    for meeting in find_meetings(flow, kinds):
        troubles += [one for one in meeting.troubles if not any(text in one[0] for text in _HARMLESS)]
        for value, node in meeting.terms:
            source = _parameter_behind(value)
            if source is None:
                troubles.append((f"`{facts.code(node)}` is added to the scores and is no argument", node))
            elif source != "attention_mask":
                parameters.add(source)
    return Added(frozenset(parameters), tuple(troubles))


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
            found = {_parameter_behind(one) for one in value.inputs if not one.is_none}
            return found.pop() if len(found) == 1 else None
        else:
            return None
    return None
