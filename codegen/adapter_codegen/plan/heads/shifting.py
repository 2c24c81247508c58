"""What a decoder reads where labels are given and no inputs for it: upstream's heads shift the labels, each in its way."""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from adapter_codegen.model import ModelPlan, Shift
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name

INPUTS = "decoder_input_ids"
LABELS = "labels"


def plan_shift(plan: ModelPlan, facts: ModuleFacts) -> Shift | None:
    """How the labels of a model become the inputs of its decoder; None where upstream does not say it in one call.

    Read from ``decoder_input_ids = shift(labels, ...)`` in forwards of classes with a head. The call is copied, so it may
    only use what an adapter model has too: its config, methods of the class that all of upstream's derive from, and
    functions of the file. Forwards that do not shift alike leave it open.
    """
    if not any(parameter.name == INPUTS for parameter in plan.base.parameters):
        return None
    calls = [call for head in plan.static_heads for call in _calls(facts, head.class_name)]
    found = {facts.code(call): call for call in calls}
    if len(found) != 1:
        return None
    call = next(iter(found.values()))
    function = _function(call, facts, plan.base.pretrained_class)
    if function is None or not _is_copyable(call.args):
        return None
    return Shift(" ".join(facts.code(call).split()), function)


def _calls(facts: ModuleFacts, class_name: str) -> Iterable[cst.Call]:
    """The calls whose first argument is the labels and whose value is what the decoder reads."""
    known = facts.classes.get(class_name)
    forward = known.functions.get("forward") if known else None
    for node in descendants(forward.node) if forward else ():
        targets, value = assignment(node) or ((), None)
        if [dotted_name(target) for target in targets] != [INPUTS] or not isinstance(value, cst.Call):
            continue
        if value.args and dotted_name(value.args[0].value) == LABELS:
            yield value


def _function(call: cst.Call, facts: ModuleFacts, pretrained: str) -> str | None:
    """The function of the file that is called, "" for a method of `pretrained`; None for anything else."""
    name = dotted_name(call.func)
    if name in facts.functions:
        return name
    owner, _, method = name.rpartition(".")
    known = facts.classes.get(pretrained)
    return "" if owner == "self" and known is not None and method in known.functions else None


def _is_copyable(arguments: Iterable[cst.Arg]) -> bool:
    names = [dotted_name(argument.value) for argument in arguments if argument.star == ""]
    return all(name == LABELS or name.startswith("self.config.") for name in names)
