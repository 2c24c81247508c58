"""A call of what the attention registry gave: ``ALL_ATTENTION_FUNCTIONS.get_interface(...)(self, q, k, v, mask)``."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.plan.attention.core import PREFIX, AttentionCore, Claims, CoreKind, Signs
from adapter_codegen.plan.attention.eager import Added, added_to_scores
from adapter_codegen.plan.attention.kinds.calls import (
    attention_call,
    bias_arguments,
    mask_argument,
    unclaimed_arguments,
)
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.calls import REGISTRY
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, alternatives, same_tensor

_PARAMETERS = ("module", "query", "key", "value", "attention_mask")


class Interface(CoreKind):
    name = "attention interface"
    signs = Signs(names=frozenset({REGISTRY}))
    has_fixed_layout = True
    may_hide_keys = True  # sdpa does, in modules with `is_causal`

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        if value.op is Op.CALL and _is_interface(value.inputs[0]):
            yield from attention_call(self, value, _PARAMETERS, value.inputs[1:], mask="attention_mask")

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        """The eager function of the file stands for all that the registry may give: it shows what is added to the scores."""
        eager = _eager_function(core.call)
        added = added_to_scores(scene.facts, eager, scene.kinds) if eager else Added()
        differing = (
            Finding(Problem.EAGER_DIFFERS, trouble.node, PREFIX, {"function": eager, "what": str(trouble)})
            for trouble in added.troubles
        )
        return Claims(
            against=(*unclaimed_arguments(core, added.parameters), *differing),
            mask=mask_argument(core, scene),
            biases=bias_arguments(core, scene, added.parameters),
        )


def _is_interface(callee: Value) -> bool:
    return any(alternative.op is Op.INTERFACE for alternative in alternatives(callee))


def _eager_function(call: Value) -> str:
    """Name of the eager function that the interface falls back to."""
    for callee in alternatives(call.inputs[0]):
        if callee.op is Op.GLOBAL:
            return callee.name
        if callee.op is Op.INTERFACE and len(callee.inputs) > 2:
            fallback = same_tensor(callee.inputs[2])
            return fallback.name if fallback.op is Op.GLOBAL else ""
    return ""
