"""Parts that stand in the file of the whole, each planned as a tower: what they say of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adapter_codegen.model import BasePlan, Making, Method, MethodSupport, ModelPlan, TowerPlan

_Part = tuple[TowerPlan, tuple[str, ...]]  # with what its forward reads


def methods_of_parts(
    base: BasePlan, methods: tuple[MethodSupport, ...], towers: Sequence[TowerPlan]
) -> tuple[MethodSupport, ...]:
    """The methods of a model; of one whose parts are all of this file, without those for which no part has a place."""
    named = {tower.base.class_name: tower for tower in towers}
    parts = [(named.get(part.class_name), part.reads) for part in base.parts if part.making is Making.OWN]
    if not base.is_of_parts or base.stacks or len(parts) < len(base.parts):
        return methods
    planned = [(tower, reads) for tower, reads in parts if tower]
    return tuple(_in_any(method, planned) for method in methods)


def _in_any(method: MethodSupport, parts: Iterable[_Part]) -> MethodSupport:
    acts_on_tokens = method.method in (Method.PROMPT_TUNING, Method.INVERTIBLE)
    asked = [tower for tower, reads in parts if not acts_on_tokens or "tokens" in reads]
    found = [one for tower in asked for one in tower.methods if one.method is method.method]
    if not method.supported or not found or any(one.supported for one in found):
        return method
    return found[0]


def lacks_part(plan: ModelPlan) -> bool:
    """Whether a model of the same file is a part, and cannot be planned by itself."""
    parts = {part.class_name for part in plan.base.parts if part.making is Making.OWN}
    return not parts <= {tower.base.class_name for tower in plan.towers}
