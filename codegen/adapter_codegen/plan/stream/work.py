"""The submodule that did the work of a branch: what a residual addition adds to the stream came out of it."""

from __future__ import annotations

from collections.abc import Sequence

from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, DROPOUTS, VIEWS, last_name, tensor_operands, worked_on

# Modules and calls after which the stream is still the stream, and a branch the same branch.
STEPS = (Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.SCALE)
STREAM_CALLS = CASTS | VIEWS | DROPOUTS | {"clamp", "clip", "nan_to_num", "where", "mul", "roll", "pad", "masked_fill"}


def work_behind(branch: Value, scene: Scene) -> Value | None:
    """The submodule call that a branch came out of: behind dropout, scale, view, cast, norm, tuple index.

    Of a branch that is itself a sum (attention beside a feed-forward block, shared experts beside others), every term must have
    come out of one; the last is given.
    """
    value = branch
    for _ in range(40):
        if value.op is Op.SUBMODULE and scene.kind(value) not in STEPS:
            return value
        if (value.op is Op.SUBMODULE and value.inputs) or value.op is Op.ITEM:
            value = value.inputs[0]
        elif value.through is not None:
            value = value.through
        elif value.op is Op.JOIN:
            return _work_of_any(value.choices, scene)
        elif value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in STREAM_CALLS and value.inputs:
            value = worked_on(value)[0]
        elif value.op is Op.BINARY and value.operator in "*/":
            works = [work_behind(operand, scene) for operand in tensor_operands(value)]
            return next((work for work in works if work is not None), None)
        elif value.is_sum:
            works = [work_behind(operand, scene) for operand in value.inputs]
            return works[-1] if all(works) else None
        else:
            return None
    return None


def _work_of_any(values: Sequence[Value], scene: Scene) -> Value | None:
    """The submodule behind one of several alternatives; one that did no work must be what the others started from."""
    works = [work_behind(value, scene) for value in values]
    pairs = list(zip(values, works, strict=True))
    behind = {key for value, work in pairs if work is not None for key in ancestors(value)}
    idle = [value for value, work in pairs if work is None]
    if any(id(same_tensor(value)) not in behind for value in idle):
        return None
    return next((work for work in works if work is not None), None)
