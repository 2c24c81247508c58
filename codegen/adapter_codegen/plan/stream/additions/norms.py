"""The norm that a residual sum goes into, where that is all that it goes into: then the edit takes the norm along."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.model import Placement
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value


def placement_of(value: Value, scene: Scene) -> tuple[Placement, Value | None]:
    """What a bottleneck call takes the place of, and the call of the norm if there is one."""
    uses = [use for use in scene.consumers.of(value) if not use.is_metadata]
    uses = [use for use in uses if not (use.op is Op.PARAMETER and scene.flow.calls.get(use.frame) in uses)]
    if len(uses) != 1:
        return Placement.ADDITION, None
    norm = uses[0]
    is_norm = scene.is_call_of(norm, Kind.NORM) and norm.frame is value.frame
    if not is_norm or len(norm.inputs) != 1 or norm.keywords or not isinstance(norm.node, cst.Call):
        return Placement.ADDITION, None
    if norm.node.args[0].value is value.node:
        return Placement.NORM_OF_ADDITION, norm
    if _is_next_statement(value, norm, scene):
        return Placement.NORM_IN_NEXT_STATEMENT, norm
    return Placement.ADDITION, None


def _is_next_statement(value: Value, norm: Value, scene: Scene) -> bool:
    """``h = r + x`` and then ``h = self.norm(h)``, with nothing else in either."""
    if value.statement is None or scene.flow.after.get((value.frame, value.statement)) is not norm.statement:
        return False
    first, second = _assigned(value.statement, value.node), _assigned(norm.statement, norm.node)
    return first is not None and first == second


def _assigned(statement: cst.CSTNode | None, node: cst.CSTNode) -> str | None:
    """The name that a statement consisting of ``name = node`` binds."""
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return None
    small = statement.body[0]
    if small is node and isinstance(small, cst.AugAssign):
        return small.target.value if isinstance(small.target, cst.Name) else None
    if isinstance(small, cst.Assign) and small.value is node and len(small.targets) == 1:
        target = small.targets[0].target
        return target.value if isinstance(target, cst.Name) else None
    return None
