"""Residuals that are projected, normalised and pooled, where a layer changes the width (MobileBERT) or the number of positions (Hiera).

Such a layer reads the stream, and where its output has another shape it adds to a projection of the stream and not to the stream
itself. A projection alone is no sign: only beside the stream, as the other of two alternatives, it takes its place.
"""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.syntax import descendants
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, VIEWS, called, first_argument

_POOLING = frozenset({"max", "amax", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d"})


def projected(value: Value, scene: Scene) -> Value | None:
    """What a projection reads that `value` comes out of, pooled as it may be; None where it does not."""
    found = _projections(value, scene)
    linear = found[0] if found else None
    return first_argument(linear) if linear is not None and all(one is linear for one in found) else None


def _projections(value: Value, scene: Scene) -> list[Value | None]:
    """The call of a projection behind each alternative; None for one that has none."""
    for _ in range(20):
        if scene.is_call_of(value, Kind.LINEAR):
            return [value]
        if value.op is Op.JOIN:
            return [found for choice in value.choices for found in _projections(choice, scene)]
        if value.op in (Op.PARAMETER, Op.FUNCTION, Op.ITEM) and value.through is not None:
            value = value.through
        elif scene.is_call_of(value, Kind.NORM) and value.inputs:
            value = value.inputs[0]
        elif value.op is Op.SUBMODULE and value.through is not None:
            value = value.through
        elif value.inputs and (called(value, *VIEWS, *CASTS, *_POOLING) or _is_first_of_pooled(value)):
            value = value.inputs[0]
        else:
            break
    return [None]


def is_by_width(value: Value) -> bool:
    """Whether there is such a residual only where a layer is given its own width: ``x if x.shape[-1] == self.hidden_size else None``."""
    value = same_tensor(value)
    if value.op is not Op.JOIN or not any(choice.is_none for choice in map(same_tensor, value.inputs)):
        return False
    test = value.node.test if isinstance(value.node, cst.IfExp) else None
    names = (node.attr.value for node in descendants(test) if isinstance(node, cst.Attribute)) if test else ()
    return any(name in ("shape", "size") for name in names)


def _is_first_of_pooled(value: Value) -> bool:
    """``x.max(dim=1).values``, ``x.max(dim=1)[0]``."""
    is_values = value.op is Op.ATTRIBUTE and value.name == "values"
    return (is_values or (value.op is Op.ITEM and value.index == "0")) and called(value.inputs[0], *_POOLING)
