"""What of a class stands behind everything in it that adapters reach: its head, where it has no base model of its own."""

from __future__ import annotations

from collections.abc import Collection

from adapter_codegen.model import BasePlan, PartPlan, StackPlan
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.values import Flow, Op, Value, ancestors


def plan_head(facts: ModuleFacts, known: ClassFacts, flow: Flow | None, base: BasePlan) -> tuple[str, ...]:
    """The modules of the head of a class.

    Args:
        flow: of its forward, in which the ways to its layers and parts are looked into.
        base: what else is planned of it.
    """
    places: list[StackPlan | PartPlan] = [*base.stacks, *base.inner, *base.parts]
    main = [place.path for place in places if place.is_main]
    reached = [place.path for place in places]
    return _modules_behind(facts, known, flow, main or reached, reached) if flow is not None else ()


def _modules_behind(
    facts: ModuleFacts, known: ClassFacts, flow: Flow, main: Collection[str], reached: Collection[str]
) -> tuple[str, ...]:
    """The submodules of a class that are given something of what is main, and give nothing to what is reached.

    What stands between two parts (the projection of an encoder's output for a decoder) is no head, and neither is a norm.
    """
    sources = {key for run in _runs(flow, reached) for key in ancestors(run)}
    ids = {id(run) for run in _runs(flow, main)}
    holding = {path.partition(".")[0] for path in reached}
    behind = {
        first
        for value in flow.values
        if (first := _path(value).partition(".")[0]) in known.submodules
        and first not in holding
        and id(value) not in sources
        and ids & ancestors(value).keys()
    }
    kinds = Kinds(facts)
    found = (one for name, one in known.submodules.items() if name in behind)
    return tuple(one.name for one in found if one.in_list or kinds.of(one.classes) is not Kind.NORM)


def _runs(flow: Flow, paths: Collection[str]) -> list[Value]:
    return [value for value in flow.values if (path := _path(value)) and any(_touches(path, one) for one in paths)]


def _path(value: Value) -> str:
    """The module that a value is the call of, or of a method of; "" for all else."""
    if value.op is Op.SUBMODULE:
        return value.path
    return value.inputs[0].path if value.op is Op.METHOD and value.inputs[0].is_module else ""


def _touches(path: str, reached: str) -> bool:
    return f"{path}.".startswith(f"{reached}.")
