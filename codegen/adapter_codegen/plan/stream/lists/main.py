"""The main stack of a model: what the model returns comes out of it.

From the hidden states that a base model returns (of outputs without such a field, from all of them) the way goes back to the first
layers that it meets, or the first model of another file. Of the stacks that it meets there, those are left out of which another one
that it meets was made: a tower of images whose features stand among the embeddings of tokens, an encoder that a decoder attends to.
Towers side by side (CLIP) are all main.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.values import Flow, Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import field_of_output
from adapter_codegen.plan.stream.entrance.way import layer_calls_of
from adapter_codegen.plan.stream.lists.stacks import FoundStack
from adapter_codegen.plan.stream.optional import optional_start

_HIDDEN_STATES = "last_hidden_state"  # as upstream's classes of outputs call what the heads read


def main_of(facts: ModuleFacts, flow: Flow, stacks: Sequence[FoundStack], elsewhere: Sequence[str]) -> frozenset[str]:
    """The paths of the main stacks, or of the models that hold them; empty where the forward does not show it.

    Args:
        flow: of the forward of the base model, as `trace_to_layers` gives it.
        elsewhere: paths of models of other files.
    """
    calls = {id(call): stack.path for stack in stacks for _, call in layer_calls_of(flow, stack)}
    calls |= {id(value): path for value in flow.values if (path := _reached(value, elsewhere))}
    met = {id(call): call for value in _hidden_states(flow) for call in _nearest(value, calls)}
    always = {key: call for key, call in met.items() if not optional_start(calls[key], flow.root.class_name, facts)}
    return _without_their_sources(always or met, calls)


def _reached(value: Value, elsewhere: Sequence[str]) -> str:
    """The model of another file that a value is the call of, or of a module or function in it; "" for all else."""
    called = value.path if value.op is Op.SUBMODULE else ""
    if value.op is Op.METHOD and value.inputs[0].is_module:
        called = value.inputs[0].path
    return next((path for path in elsewhere if called and f"{called}.".startswith(f"{path}.")), "")


def _hidden_states(flow: Flow) -> list[Value]:
    """What is returned as hidden states, or all that is, where nothing is called so."""
    results = [] if flow.returned is None else list(_results(flow.returned))
    named = [value for result in results if (value := result.keyword(_HIDDEN_STATES)) is not None]
    return named or results


def _results(value: Value) -> Iterator[Value]:
    value = same_tensor(value)
    if value.op is Op.JOIN:
        for choice in value.choices:
            yield from _results(choice)
    else:
        yield value


def _nearest(value: Value, calls: Mapping[int, str]) -> list[Value]:
    """The calls on the way back from a value, and none behind them."""
    found: dict[int, Value] = {}
    seen: set[int] = set()
    todo = [value]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if id(value) in calls:
            found[id(value)] = value
            continue
        field = field_of_output(value) if value.op in (Op.ITEM, Op.ATTRIBUTE) else None
        todo.extend(value.origins() if field is None else (field,))
    return list(found.values())


def _without_their_sources(met: Mapping[int, Value], calls: Mapping[int, str]) -> frozenset[str]:
    """Without the stacks that another one was made of; all of them, where each was made of another."""
    behind: dict[str, set[str]] = {calls[key]: set() for key in met}
    for key, call in met.items():
        sources = {calls[source] for source in ancestors(call) if source in calls}
        behind[calls[key]] |= sources - {calls[key]}
    sources = {path for path, found in behind.items() if any(path in others for others in behind.values())}
    return frozenset(behind.keys() - sources or behind.keys())
