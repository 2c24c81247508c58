"""Heads on the encoder of a model with a decoder (Whisper's audio classifier), which a flexible model reads out of what its base model gives."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.model import BasePlan, StaticHead
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name, self_attribute
from adapter_codegen.plan.parts.dividing import is_within

_STATES = "encoder_last_hidden_state"  # under which models with a decoder give what their encoder gave


def encoder_read(facts: ModuleFacts, base: BasePlan, head: ClassFacts, part: str) -> str:
    """`part`, if that is the encoder of a base model that also gives its last hidden states; else "".

    Args:
        facts: of the file of the base model.
        base: a model with a decoder.
        head: a class with a head.
        part: where that holds what it reads; the base model must have the same there.
    """
    known = facts.classes.get(base.class_name)
    forward = known.functions.get("forward") if known is not None else None
    is_encoder = any(is_within(stack.path, part) and not stack.is_main for stack in base.stacks)
    if known is None or forward is None or not is_encoder or not _is_held_alike(known, head, part):
        return ""
    nodes = list(descendants(forward.node))
    given = [dotted_name(node.value) for node in nodes if isinstance(node, cst.Arg) and _is_states(node)]
    outputs, _, field = given[0].rpartition(".") if len(given) == 1 else ("", "", "")
    pairs = list(filter(None, map(assignment, nodes)))
    made = [value for targets, value in pairs if outputs in map(dotted_name, targets)]
    calls = [value for value in made if isinstance(value, cst.Call) and self_attribute(value.func) == part]
    return part if field == "last_hidden_state" and calls else ""


def _is_held_alike(known: ClassFacts, head: ClassFacts, part: str) -> bool:
    held = [one.submodules[part].classes for one in (known, head) if part in one.submodules]
    return len(held) == 2 and held[0] == held[1]


def _is_states(argument: cst.Arg) -> bool:
    return argument.keyword is not None and argument.keyword.value == _STATES


def on_encoder(base: BasePlan, head: StaticHead) -> bool:
    """Whether a head stands on the encoder of a model with a decoder."""
    return base.is_encoder_decoder and bool(head.part)
