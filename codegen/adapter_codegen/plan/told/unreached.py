"""Edits that no adapter would ever reach: those for a method that every model of a plan which holds the layers refuses.

A layer may hold an attention that takes a prefix beside one that does not (Conditional DETR), and a vision tower may have keys whose width no
attribute states (InstructBLIP). Such a model refuses the method as a whole, so that an edit for it is text that does nothing, and no check
can miss it. Layers that none of the known models holds keep their edits: who runs them is not known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from adapter_codegen.model import BasePlan, ClassPlan, HolderPlan, Method, ModelPlan
from adapter_codegen.plan.module import ModulePlan


def without_unreached(plan: ModelPlan, found: ModulePlan) -> ModelPlan:
    """A plan without the edits that nothing reaches, and without the roles of the places that they would make.

    Args:
        found: all layers of the file.
    """
    lost = {method: _lost(plan, method) for method in (Method.PREFIX_TUNING, Method.BOTTLENECK)}
    if not any(lost.values()):
        return plan
    planned = {layer.class_name for layer in plan.layers}
    entries = [entry for entry in found.entries if entry.plan.class_name in planned]
    # A class may serve layers of several kinds: one that is not lost is enough.
    reached = {
        method: {name for entry in entries if entry.plan.class_name not in layers for name in entry.classes}
        for method, layers in lost.items()
    }
    kept = (_with_sites(entry, reached) for entry in plan.classes)
    layers = tuple(
        replace(layer, bottlenecks=()) if layer.class_name in lost[Method.BOTTLENECK] else layer
        for layer in plan.layers
    )
    return replace(plan, classes=tuple(entry for entry in kept if entry.functions), layers=layers)


def _lost(plan: ModelPlan, method: Method) -> frozenset[str]:
    """Layers that models hold, all of which refuse the method."""
    held, reached = set(), set()
    for base, supported in _models(plan):
        layers = {name for stack in base.stacks for name in stack.layer_classes}
        held |= layers
        reached |= layers if method in supported else set()
    return frozenset(held - reached)


def _models(plan: ModelPlan) -> Iterator[tuple[BasePlan, Collection[Method]]]:
    """Every class with a mixin of its own, with the methods that it has a place for in its own layers."""
    for holder in (HolderPlan(plan.base), *plan.holders):
        lacks = {method for method, _ in (*holder.base.lacks, *holder.lacks)}
        yield holder.base, {one.method for one in plan.methods if one.supported} - lacks
    for tower in plan.towers:
        yield tower.base, {one.method for one in tower.methods if one.supported}


def _with_sites(entry: ClassPlan, reached: dict[Method, set[str]]) -> ClassPlan:
    """The class with the sites of the methods for which it is reached alone."""
    prefix = entry.prefix_sites if entry.name in reached[Method.PREFIX_TUNING] else ()
    residual = entry.residual_sites if entry.name in reached[Method.BOTTLENECK] else ()
    touched = {site.function for site in prefix} | {site.function for site in residual}
    functions = tuple(name for name in entry.functions if name in touched)
    return replace(entry, functions=functions, prefix_sites=prefix, residual_sites=residual)
