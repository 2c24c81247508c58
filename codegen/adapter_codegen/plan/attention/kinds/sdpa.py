"""A call of ``scaled_dot_product_attention``."""

from __future__ import annotations

from collections.abc import Iterator

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.plan.attention.core import PREFIX, AttentionCore, Claims, CoreKind, Signs
from adapter_codegen.plan.attention.kinds.calls import (
    attention_call,
    bias_arguments,
    mask_argument,
    unclaimed_arguments,
)
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import last_name

PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
_FUNCTION = "scaled_dot_product_attention"


class Sdpa(CoreKind):
    name = "scaled_dot_product_attention"
    signs = Signs(calls=frozenset({_FUNCTION}))

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        if value.op is Op.FUNCTION and last_name(value) == _FUNCTION and value.through is None:
            yield from attention_call(self, value, PARAMETERS, value.inputs, mask="attn_mask")

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        return Claims(
            against=(*unclaimed_arguments(core), *causal_flag(core)),
            mask=mask_argument(core, scene),
            biases=bias_arguments(core, scene),
        )


def causal_flag(core: AttentionCore) -> Iterator[Finding]:
    """torch aligns ``is_causal`` with the first key: queries would see a prefix only in part."""
    causal = core.call.keyword("is_causal")
    known = same_tensor(causal) if causal is not None else None
    if known is not None and not (known.op is Op.CONSTANT and known.literal == "False"):
        yield Finding(Problem.CAUSAL_BY_FLAG, core.nodes["is_causal"], PREFIX)
