"""A flash attention kernel that is called past the attention registry: it knows no mask with a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.plan.attention.core import PREFIX, AttentionCore, Claims, CoreKind, Reason, Signs, Trouble
from adapter_codegen.plan.attention.kinds.calls import attention_call, unclaimed_arguments
from adapter_codegen.plan.attention.kinds.sdpa import PARAMETERS, causal_flag
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value
from adapter_codegen.plan.flow.walks import last_name

_KERNELS = frozenset(
    {"_flash_attention_forward", "flash_attn_func", "flash_attn_varlen_func", "memory_efficient_attention"}
)


class Flash(CoreKind):
    name = "flash attention kernel"
    signs = Signs()  # a kernel stands beside another kind of core, by which its class is found

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        if value.op is Op.FUNCTION and last_name(value) in _KERNELS and value.through is None:
            trouble = Trouble(Reason.KERNEL, value.node)
            for core in attention_call(self, value, PARAMETERS, value.inputs, mask="attn_mask"):
                yield replace(core, troubles=(trouble,))

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        kernels = (
            Finding(Problem.KERNEL_CALLED_DIRECTLY, trouble.node, PREFIX, {"what": str(trouble)})
            for trouble in core.troubles
        )
        return Claims(against=(*unclaimed_arguments(core), *causal_flag(core), *kernels))
