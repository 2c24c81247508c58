"""Additions that stand beside a layer: in the loop that runs through the list of layers (XLM, SuperGlue).

Such a layer gives what is added, and the forward that holds the list adds it: ``states = states + self.layers[i](states)``. What
the loop binds again, and the layer reads, is the stream: it is followed from the end of the loop's body to what it was ahead of
the loop, as it is followed through a layer elsewhere. All that is added on this way belongs to the layer of this turn, which holds
the adapters; so each addition must stand in the loop itself, where an expression gives the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import descendants, dotted_name
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.calls import CHECKPOINT
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Environment, Loop, Op, Value, ancestors
from adapter_codegen.plan.stream.additions.residuals import Addition, Residuals, Way, find_residuals


@dataclass(frozen=True, eq=False)
class Beside:
    """The additions beside a layer, in the forward of the class that holds the list of layers."""

    scene: Scene
    residuals: Residuals
    path: str  # of any layer of the list, from that class: "layers.*"
    holders: Mapping[int, str]  # ``id(value)`` of an addition -> code that gives the layer there


def added_beside(facts: ModuleFacts, kinds: Kinds, class_name: str) -> Beside | None:
    """The additions beside a layer; None where no single list holds such layers, or its loops do not show all that they add."""
    held = list(_lists_of(facts, class_name))
    if len(held) != 1:
        return None
    owner, path = held[0]
    try:
        flow = trace(facts, owner.name) if "forward" in owner.functions else None
    except TooLarge:
        return None
    if flow is None:
        return None
    scene = Scene(facts, flow, kinds)
    calls = _calls(scene, path)
    around = [_loop_of(call, scene) for call in calls]
    loops = {id(loop): loop for loop in around if loop is not None}.values()
    if not calls or None in around:
        return None
    found = Residuals()
    for loop in loops:
        way = _stream_in(loop, [call for call, one in zip(calls, around, strict=True) if one is loop])
        if way is None or not _gather(find_residuals(scene, way), found):
            return None
    holders = {id(one.value): _holder(one, path, loops, scene) for one in found.additions}
    added = {one.work.path for one in found.additions}
    if path not in added or not all(holders.values()):
        return None
    return Beside(scene, found, path, holders)


def _lists_of(facts: ModuleFacts, class_name: str) -> Iterator[tuple[ClassFacts, str]]:
    """The lists that hold nothing but layers of a class, with the class that has each."""
    for known in facts.classes.values():
        for submodule in known.submodules.values():
            classes = {local_class(name) for name in submodule.classes}
            if submodule.in_list and class_name in classes:
                yield known, f"{submodule.name}.*" if classes == {class_name} else ""


def _calls(scene: Scene, path: str) -> list[Value]:
    """The calls of layers."""
    return [value for value in scene.flow.values if value.op is Op.SUBMODULE and value.path == path]


def _loop_of(call: Value, scene: Scene) -> Loop | None:
    """The innermost loop of the forward itself in whose body a layer is called."""
    around = [
        loop
        for loop in scene.flow.loops
        if loop.frame is scene.flow.root and call.frame is loop.frame and _holds(loop, call.node)
    ]
    return around[0] if around else None  # a loop is finished before the one around it


def _holds(loop: Loop, node: cst.CSTNode | None) -> bool:
    return any(inner is node for inner in descendants(loop.node.body))


def _stream_in(loop: Loop, calls: list[Value]) -> Way | None:
    """What each turn of a loop hands on to the next by way of its layer, if it is one tensor."""
    rebound = [name for name, value in loop.after.items() if loop.before.get(name, value) is not value]
    names = [
        name
        for name in rebound
        if all(_reads(call, loop.before[name]) for call in calls) and not _is_dropped(name, loop)
    ]
    return Way((loop.before[names[0]],), (loop.after[names[0]],)) if len(names) == 1 else None


def _reads(call: Value, value: Value) -> bool:
    return bool(call.inputs) and id(value) in ancestors(call.inputs[0])


def _is_dropped(name: str, loop: Loop) -> bool:
    """Whether the next turn gets something else, which was not made of it."""
    return id(loop.before[name]) not in ancestors(loop.after[name])


def _gather(residuals: Residuals, found: Residuals) -> bool:
    """Put what stands on a way with what was found on others; False where something of it has no rule."""
    found.additions += residuals.additions
    return bool(residuals.additions) and not (residuals.ends or residuals.refused or residuals.in_part)


def _holder(addition: Addition, path: str, loops: Iterable[Loop], scene: Scene) -> str:
    """Code that gives, at an addition, the layer of the same turn; "" where none does."""
    value = addition.value
    loop = next((one for one in loops if value.statement is not None and _holds(one, value.statement)), None)
    if value.frame is not scene.flow.root or loop is None:
        return ""
    written = {_callee(call.node, scene) for call in _calls(scene, path) if _holds(loop, call.node)}
    code = written.pop() if len(written) == 1 else ""
    return code if _gives_layer(code, path, loop, scene.environment(value)) else ""


def _callee(node: cst.CSTNode, scene: Scene) -> str:
    """``layer`` of ``layer(x)`` and of ``checkpoint(layer, x)``."""
    assert isinstance(node, cst.Call)
    code = scene.facts.code(node.func)
    return scene.facts.code(node.args[0].value) if code == CHECKPOINT else code


def _gives_layer(code: str, path: str, loop: Loop, names: Environment) -> bool:
    """Whether code is what the loop binds the layers to, or ``self.layers[i]`` with a counter of the loop; neither bound again since."""
    node = cst.parse_expression(code) if code else None
    index = node.slice[0].slice if isinstance(node, cst.Subscript) and len(node.slice) == 1 else None
    if isinstance(index, cst.Index) and isinstance(node, cst.Subscript):
        is_list = dotted_name(node.value) == f"self.{path.removesuffix('.*')}"
        return is_list and isinstance(index.value, cst.Name) and _is_of_turn(index.value.value, loop, names)
    return isinstance(node, cst.Name) and names[code].path == path and _is_of_turn(code, loop, names)


def _is_of_turn(name: str, loop: Loop, names: Environment) -> bool:
    targets = {target.value for target in descendants(loop.node.target) if isinstance(target, cst.Name)}
    return name in targets and name in names and loop.entered[name] is names[name]
