"""Models in which nothing can be trained: upstream runs them without gradients, or they give codes, which have none."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.values import Flow, Value, ancestors
from adapter_codegen.plan.flow.walks import called
from adapter_codegen.plan.parts.running import Runs, stops_gradients
from adapter_codegen.plan.stream.entrance.way import layer_calls_of
from adapter_codegen.plan.stream.lists.stacks import FoundStack

_CODES = ("argmin", "argmax")


def runs_without_gradients(facts: ModuleFacts, class_name: str) -> bool:
    """Whether torch records nothing wherever a class of the file runs a model of this one, or in its own forward."""
    own = facts.classes[class_name].functions.get("forward")
    if own is not None and any(stops_gradients(one.decorator) for one in own.node.decorators):
        return True
    held = (
        (holder, submodule.name)
        for holder in facts.classes.values()
        for submodule in holder.submodules.values()
        if class_name in submodule.classes
    )
    runs = [run for holder, name in held for run in Runs(holder, name, None).in_forward]
    return bool(runs) and not any(run.has_gradient for run in runs)


def gives_codes(flow: Flow, stacks: Sequence[FoundStack]) -> bool:
    """Whether all that a model returns of what comes out of its layers are the places of the largest or the smallest of it.

    Args:
        flow: of the forward of the model.
    """
    layers = {id(call) for stack in stacks for _, call in layer_calls_of(flow, stack)}
    if flow.returned is None or layers & ancestors(flow.returned, _is_choice).keys():
        return False
    return bool(layers & ancestors(flow.returned).keys())


def _is_choice(value: Value) -> bool:
    return called(value, *_CODES)
