"""Projections that see batch and positions the other way round than their layer: the attention exchanges them before it projects.

Longformer's attention does so where the layer has the batch first, OneFormer's where the layer has the positions first. What
divides a batch among adapters must know.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.layout import flat_arguments, integer
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, DROPOUTS, VIEWS, called, last_name, one_step_back

_SWAPS = ("transpose", "swapaxes", "swapdims")
_KEPT = CASTS | DROPOUTS | {"contiguous"}


def turned_projections(paths: Iterable[str], scene: Scene) -> tuple[str, ...]:
    """Of the projections at `paths`, those that are called with the first two dimensions of the layer's tensors exchanged.

    It shows ahead of them, or behind them where the values of an attention come in.
    """
    found: dict[str, set[bool | None]] = {}
    for value in scene.flow.values:
        if scene.is_call_of(value, Kind.LINEAR) and value.inputs and value.path:
            ahead = _turns_ahead(value.inputs[0], scene, frozenset())
            found.setdefault(value.path, set()).add(_turns_behind(value, scene) if ahead is None else ahead)
    return tuple(path for path in dict.fromkeys(paths) if found.get(path) == {True})


def _turns_ahead(value: Value, scene: Scene, seen: frozenset[int]) -> bool | None:
    """Whether the layer's argument was turned on its way to `value`; None where the text does not show it.

    Of a sum, or of what a value may be, one part that shows it will do: the parts fit together.
    """
    value = same_tensor(value)
    if id(value) in seen:
        return None
    seen |= {id(value)}
    if value.op is Op.PARAMETER:
        return False if value.frame is scene.flow.root else None
    turns = _turns(value)
    if turns is None:
        return None
    before = (_turns_ahead(one, scene, seen) for one in one_step_back(value, scene.kinds) if not one.is_none)
    known = {found for found in before if found is not None}
    return turns ^ known.pop() if len(known) == 1 else None


def _turns_behind(value: Value, scene: Scene) -> bool | None:
    """Whether `value` is turned on its way to the next addition."""
    todo, seen, found = [(value, False)], set(), set()
    while todo:
        value, is_turned = todo.pop()
        for use in scene.consumers.of(value):
            if use.is_sum:
                found.add(is_turned)
            elif id(use) not in seen and _hands_on(use, value, scene):
                seen.add(id(use))
                turns = _turns(use)
                if turns is None:
                    return None
                todo.append((use, is_turned ^ turns))
    return found.pop() if len(found) == 1 else None


def _turns(step: Value) -> bool | None:
    """Whether a step exchanges the first two dimensions; None where it changes others, or what they are."""
    numbers = [integer(argument) for argument in flat_arguments(step.inputs[1:])] if step.inputs else []
    if called(step, *_SWAPS):
        return True if sorted(map(str, numbers)) == ["0", "1"] else None
    if called(step, "permute"):
        return True if numbers == [1, 0, 2] else False if numbers == [0, 1, 2] else None
    return None if called(step, *(VIEWS - _KEPT)) else False


def _hands_on(use: Value, value: Value, scene: Scene) -> bool:
    if use.op is Op.SUBMODULE:
        return use.through is value or scene.kind(use) in (Kind.DROPOUT, Kind.IDENTITY, Kind.NORM)
    if use.op in (Op.METHOD, Op.FUNCTION):
        return use.through is value or (last_name(use) in VIEWS | _KEPT and use.inputs[:1] == (value,))
    return use.op in (Op.ITEM, Op.PARAMETER, Op.JOIN, Op.TUPLE, Op.HELPER)
