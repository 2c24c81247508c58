"""The hidden states that the queries of a core were projected from: what a gate of the prefix reads."""

from __future__ import annotations

from collections.abc import Mapping

import libcst as cst

from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Environment, Value, same_tensor
from adapter_codegen.plan.flow.walks import one_step_back, sources

_PROJECTING = frozenset({Kind.LINEAR, Kind.CONVOLUTION})


def gate_input(core: AttentionCore, scene: Scene) -> str | None:
    """A name that the hidden states have in front of the core: before the first projection, if there are several in line."""
    environment = scene.environment(core.call)
    by_tensor = {id(same_tensor(value)): name for name, value in reversed(environment.items())}
    found: str | None = None
    todo, seen = [core.query], set()
    while todo:
        value = todo.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        for projection in sources(value, scene.kinds, _PROJECTING):
            if id(projection) in seen or not projection.inputs:
                continue
            seen.add(id(projection))
            found = _name_of_input(projection, environment, by_tensor, scene) or found
            todo.append(projection.inputs[0])
    return found


def _name_of_input(
    projection: Value, environment: Environment, by_tensor: Mapping[int, str], scene: Scene
) -> str | None:
    """The name as the projection has it, or any that the same hidden states are bound to."""
    argument = projection.inputs[0]
    node = projection.node
    written = node.args[0].value if isinstance(node, cst.Call) and node.args else None
    name = written.value if isinstance(written, cst.Name) else ""
    if name in environment and same_tensor(environment[name]) is same_tensor(argument):
        return name
    while id(same_tensor(argument)) not in by_tensor:
        layout = scene.layouts.of(argument)
        back = [before for before in one_step_back(argument, scene.kinds) if scene.layouts.of(before) == layout]
        if len(back) != 1:
            return None
        argument = back[0]
    return by_tensor[id(same_tensor(argument))]
