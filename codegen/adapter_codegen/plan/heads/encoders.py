"""Heads on the encoder of a model with a decoder, which a flexible model reads out of what its base model gives.

Upstream's class holds the encoder (Whisper's audio classifier), or a model that is nothing but that encoder (T5's tagger).
"""

from __future__ import annotations

import libcst as cst

from adapter_codegen.model import BasePlan, StaticHead
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name, self_attribute
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.parts.dividing import is_within

_STATES = "encoder_last_hidden_state"  # under which models with a decoder give what their encoder gave


def encoder_read(facts: ModuleFacts, base: BasePlan, head: ClassFacts, part: str) -> str:
    """The path of what a class reads, if that is the encoder of a base model that also gives its last hidden states; else "".

    Args:
        facts: of the file of the base model.
        base: a model with a decoder.
        head: a class with a head.
        part: where that holds what it reads; the base model must have the same there, or what is inside.
    """
    inner = encoder_alone(facts, base.class_name, head, part)
    if inner:
        owner = facts.classes[local_class(head.submodules[part].classes[0])]
        return inner if _is_encoder(facts, base, owner, inner) else ""
    return part if _is_encoder(facts, base, head, part) else ""


def encoder_alone(facts: ModuleFacts, base: str, head: ClassFacts, path: str) -> str:
    """Where a model that a class holds has the one module whose outputs it returns as they are, if a base model has the same there; else "".

    ``outputs = self.encoder(...)`` and ``return outputs``, of a class that is no base model: T5EncoderModel.
    """
    held, whole = head.submodules.get(path), facts.classes.get(base)
    names = [local_class(name) for name in held.classes] if held is not None and not held.in_list else []
    known = facts.classes.get(names[0]) if len(names) == 1 and names[0] != base else None
    forward = known.functions.get("forward") if known is not None else None
    if known is None or whole is None or forward is None:
        return ""
    nodes = list(descendants(forward.node))
    returned = [node.value for node in nodes if isinstance(node, cst.Return)]
    pairs = list(filter(None, map(assignment, nodes)))
    made = [value for targets, value in pairs if returned and dotted_name(returned[0]) in map(dotted_name, targets)]
    call = made[0] if len(returned) == len(made) == 1 else None
    path = self_attribute(call.func) if isinstance(call, cst.Call) else ""
    return path if path and _is_held_alike(whole, known, path) else ""


def _is_encoder(facts: ModuleFacts, base: BasePlan, owner: ClassFacts, part: str) -> bool:
    """Whether what a class holds at a path is the encoder of a base model that also gives its last hidden states."""
    known = facts.classes.get(base.class_name)
    forward = known.functions.get("forward") if known is not None else None
    is_encoder = any(is_within(stack.path, part) and not stack.is_main for stack in base.stacks)
    if known is None or forward is None or not is_encoder or not _is_held_alike(known, owner, part):
        return False
    nodes = list(descendants(forward.node))
    given = [dotted_name(node.value) for node in nodes if isinstance(node, cst.Arg) and _is_states(node)]
    outputs, _, field = given[0].rpartition(".") if len(given) == 1 else ("", "", "")
    pairs = list(filter(None, map(assignment, nodes)))
    made = [value for targets, value in pairs if outputs in map(dotted_name, targets)]
    calls = [value for value in made if isinstance(value, cst.Call) and self_attribute(value.func) == part]
    return field == "last_hidden_state" and bool(calls)


def _is_held_alike(known: ClassFacts, head: ClassFacts, part: str) -> bool:
    held = [one.submodules[part].classes for one in (known, head) if part in one.submodules]
    return len(held) == 2 and held[0] == held[1]


def _is_states(argument: cst.Arg) -> bool:
    return argument.keyword is not None and argument.keyword.value == _STATES


def on_encoder(base: BasePlan, head: StaticHead) -> bool:
    """Whether a head stands on the encoder of a model with a decoder."""
    return base.is_encoder_decoder and bool(head.part)
