"""What the layers of a class show of it: the form of its hidden states, what they lack, and whether they were planned at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import BasePlan, Diagnostic, Method, StackPlan, StreamForm
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import LayerEntry, ModulePlan


def with_layers(base: BasePlan, found: ModulePlan) -> BasePlan:
    """A plan of the class alone, with what the layers of its file add to it."""
    return _with_gaps(_with_forms(_without_other_lists(base, found), found), found)


def _without_other_lists(base: BasePlan, found: ModulePlan) -> BasePlan:
    """Without the lists behind the first that hold no layers: attentions alone, flows, heads of estimates."""
    layers = {entry.plan.class_name for entry in found.entries if entry.has_additions or entry.plan.bottlenecks}
    kept = [stack for stack in base.stacks[1:] if layers & set(stack.layer_classes)]
    inner = [stack for stack in base.inner if layers & set(stack.layer_classes)]
    return replace(base, stacks=(*base.stacks[:1], *kept), inner=tuple(inner))


def _with_forms(base: BasePlan, found: ModulePlan) -> BasePlan:
    """With what the layers themselves show of their hidden states, where the way to them shows nothing."""
    shown = {entry.plan.class_name: entry for entry in found.entries if entry.form is not StreamForm.ROWS}
    stacks, inner = (tuple(_with_form(stack, shown) for stack in lists) for lists in (base.stacks, base.inner))
    return replace(base, stacks=stacks, inner=inner)


def _with_form(stack: StackPlan, shown: Mapping[str, LayerEntry]) -> StackPlan:
    entry = next((shown[name] for name in stack.layer_classes if name in shown), None)
    if entry is None or stack.form not in (StreamForm.ROWS, StreamForm.NO_TOKENS):
        return stack
    return replace(stack, form=entry.form, shown=entry.shown)


def _with_gaps(base: BasePlan, found: ModulePlan) -> BasePlan:
    """With what the layers of each stack lack."""
    entries = {entry.plan.class_name: entry for entry in found.entries}
    lists = (base.stacks, base.inner)
    stacks, inner = (tuple(_with_gaps_of_layers(stack, entries, base) for stack in of) for of in lists)
    return replace(base, stacks=stacks, inner=inner)


def _with_gaps_of_layers(stack: StackPlan, entries: Mapping[str, LayerEntry], base: BasePlan) -> StackPlan:
    gaps: dict[Diagnostic, None] = {}
    second: dict[Diagnostic, None] = {}
    for name in stack.layer_classes:
        if name in entries:
            gaps |= dict.fromkeys(entries[name].gaps)
            second |= dict.fromkeys(entries[name].second)
        else:
            gaps[_not_planned(stack, name, base)] = None
    return replace(stack, gaps=tuple(gaps), second=tuple(second))


def _not_planned(stack: StackPlan, name: str, base: BasePlan) -> Diagnostic:
    return Problem.LAYER_NOT_PLANNED.diagnostic(base.location, (Method.BOTTLENECK,), path=stack.path, name=name)


def layers_of(bases: Iterable[BasePlan], found: ModulePlan) -> list[LayerEntry]:
    """The layer classes that the stacks of base models hold, and those of their parts in this file."""
    wanted = {name for base in bases for stack in (*base.stacks, *base.inner) for name in stack.layer_classes}
    return [entry for entry in found.entries if entry.plan.class_name in wanted]


def holds_main(base: BasePlan, entries: Sequence[LayerEntry]) -> bool:
    """Whether the first list of layers holds any that were planned: what stands behind it is no use without."""
    main = base.stacks[0].layer_classes if base.stacks else ()
    return any(entry.plan.class_name in main for entry in entries)


def of_parts(base: BasePlan, entries: Sequence[LayerEntry], doubts: Sequence[Diagnostic]) -> BasePlan:
    """A composite, without lists of its own in which no layer was planned, and with what its own layers have no place for.

    Which methods its parts have is known when a model is built.
    """
    known = {entry.plan.class_name for entry in entries}
    own = tuple(stack for stack in base.stacks if known & set(stack.layer_classes))
    lost = tuple((stack.path, ", ".join(stack.layer_classes)) for stack in base.stacks if stack not in own)
    base = replace(base, stacks=own, unreached=lost)
    classes = {name for stack in own for name in stack.layer_classes}
    methods = plan_methods(
        replace(base, models=()), [one for one in entries if one.plan.class_name in classes], doubts
    )
    lacks = tuple((one.method, one.reason) for one in methods if not one.supported) if own else ()
    return replace(base, lacks=lacks)


def nothing_recognised(base: BasePlan, facts: ModuleFacts) -> Diagnostic:
    """About the first list of layers: what stands behind it is no use without."""
    classes = base.stacks[0].layer_classes
    elsewhere = sorted({name for layer in classes for name in _of_other_files(facts, layer, frozenset())})
    made_of = f". They are made of {', '.join(elsewhere)}, which stand in other files" if elsewhere else ""
    return Problem.NOTHING_RECOGNISED.diagnostic(
        base.location, base=base.class_name, classes=", ".join(classes), made_of=made_of
    )


def _of_other_files(facts: ModuleFacts, class_name: str, seen: frozenset[str]) -> Iterator[str]:
    """The classes of modules in a class that come from the file of a model, whose text is not this one's (I-BERT's quantised ones)."""
    known = facts.classes.get(class_name)
    if known is None and facts.origin(class_name).startswith("transformers.models."):
        yield class_name
    for submodule in known.submodules.values() if known is not None and class_name not in seen else ():
        for name in submodule.classes:
            yield from _of_other_files(facts, name, seen | {class_name})
