"""Models in which nothing can be trained: upstream runs them without gradients, or they give codes, which have none, or what is read
of them are numbers that come out of comparisons: where a text is cut into patches, by a threshold (BLT)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Flow, How, Op, Value, alternatives, ancestors
from adapter_codegen.plan.flow.walks import called
from adapter_codegen.plan.parts.running import Run, Runs, stops_gradients
from adapter_codegen.plan.stream.entrance.way import layer_calls_of
from adapter_codegen.plan.stream.lists.stacks import FoundStack

_CODES = ("argmin", "argmax")
_ENTERED = frozenset({Op.SUBMODULE, Op.HELPER, Op.FUNCTION})


def runs_without_gradients(facts: ModuleFacts, class_name: str) -> bool:
    """Whether torch records nothing wherever a class of the file runs a model of this one, or in its own forward."""
    own = facts.classes[class_name].functions.get("forward")
    if own is not None and any(stops_gradients(one.decorator) for one in own.node.decorators):
        return True
    runs = runs_in_file(facts, class_name)
    return bool(runs) and not any(run.has_gradient for run in runs)


def runs_in_file(facts: ModuleFacts, class_name: str) -> list[Run]:
    """The runs of models of a class in the classes of its file that hold one."""
    held = (
        (holder, submodule.name)
        for holder in facts.classes.values()
        for submodule in holder.submodules.values()
        if class_name in submodule.classes
    )
    return [run for holder, name in held for run in Runs(holder, name, None).in_forward]


def only_comparisons_read(facts: ModuleFacts, class_name: str, runs: Sequence[Run]) -> bool:
    """Whether what is read of a model, wherever it is run, was compared with something before, so that no gradient comes back.

    What upstream says of `requires_grad` is no answer: an adapter in a frozen tower learns, where gradients pass through that.
    """
    if not runs or any(run.method != "forward" or run.read is None for run in runs):
        return False
    try:
        flow = trace(facts, class_name)
    except TooLarge:
        return False
    if flow is None or flow.returned is None or any(map(_writes_states, flow.values)):
        return False
    read = {index for run in runs for index in run.read or ()}
    given = list(alternatives(flow.returned))
    if any(one.op is not Op.TUPLE or len(one.inputs) <= max(read, default=0) for one in given):
        return False
    values = [one.inputs[index] for one in given for index in read]
    is_of_layers = any(one.op is Op.SUBMODULE for value in values for one in ancestors(value).values())
    return is_of_layers and not any(map(_carries_gradient, values))


def _writes_states(value: Value) -> bool:
    """``x.copy_(states)``: whoever reads x later reads what is learned, which the way back from there does not show."""
    is_in_place = value.op is Op.METHOD and value.name.endswith("_") and not value.name.endswith("__")
    return is_in_place and any(map(_carries_gradient, value.inputs[1:]))


def _carries_gradient(value: Value) -> bool:
    """Whether a gradient of a value gets to a module, on any way that passes no comparison."""
    ahead, seen = [value], set[int]()
    while ahead:
        one = ahead.pop()
        if id(one) in seen or _is_choice(one) or one.how is How.COMPARISON:
            continue
        if one.op is Op.SUBMODULE:
            return True
        seen.add(id(one))
        ahead += _made_of(one)
    return False


def _made_of(value: Value) -> Iterator[Value]:
    """What a value was computed from; of what a function that was looked into gives, what it returns, not all that it takes."""
    if value.op in _ENTERED and value.through is not None:
        yield value.through
    else:
        yield from value.origins()


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
