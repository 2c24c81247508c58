"""Paths of a layer that only some of its instances have: upstream creates their modules under a condition."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_codegen.model import LayerPlan
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.modules import find_submodule, local_class


def optional_paths(plan: LayerPlan, facts: ModuleFacts) -> tuple[str, ...]:
    """The beginnings, up to the conditional module, of all paths in a plan that lead through one; sorted."""
    starts = (optional_start(path, plan.class_name, facts) for path in _paths(plan))
    return tuple(sorted({start for start in starts if start}))


def _paths(plan: LayerPlan) -> Iterator[str]:
    for roles in plan.attentions:
        yield from (roles.core, roles.query, roles.key, roles.value, roles.fused, roles.output)
        yield from roles.query_alternatives
    yield from (role.host for role in plan.bottlenecks)
    yield from (*plan.mlp.first, *plan.mlp.gate, *plan.mlp.last)


def optional_start(path: str, class_name: str, facts: ModuleFacts) -> str:
    """``parts.1`` of ``parts.1.linear``, if upstream creates it only under a condition; "" where all is always there."""
    classes: tuple[str, ...] = (class_name,)
    places: tuple[tuple[str, ...], ...] = ()
    parts = path.split(".") if path else []
    for index, part in enumerate(parts):
        if part.lstrip("-").isdigit() or part == "*":
            if part != "*" and -len(places) <= int(part) < len(places):
                if 0 < int(part) < len(places) - 1:  # of a written list, the ends are always there
                    return ".".join(parts[: index + 1])
                classes = places[int(part)]
            continue
        submodule = find_submodule(facts, classes, part)
        if submodule is None:
            return ""  # a host that adapters will create
        owners = [facts.classes[name] for name in map(local_class, classes) if name in facts.classes]
        if submodule.conditional or any(part not in owner.submodules for owner in owners):
            return ".".join(parts[: index + 1])
        classes, places = submodule.classes, submodule.places
    return ""
