"""A call of ``multi_head_attention_forward``: torch projects queries, keys and values itself, by weights that it is given.

The modules that hold these weights never run, so that no LoRA in their place would, and no prefix can stand in front of the keys.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapter_codegen.plan.attention.core import AttentionCore, Claims, CoreKind, Signs
from adapter_codegen.plan.attention.kinds.calls import attention_call
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value
from adapter_codegen.plan.flow.walks import last_name

_FUNCTION = "multi_head_attention_forward"
_PARAMETERS = ("query", "key", "value")  # the first ones


class Functional(CoreKind):
    name = _FUNCTION
    signs = Signs(calls=frozenset({_FUNCTION}))
    has_keys = False  # that a prefix could stand in front of
    projects = True

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        if value.op is Op.FUNCTION and last_name(value) == _FUNCTION and value.through is None:
            yield from attention_call(self, value, _PARAMETERS, value.inputs, mask="attn_mask")

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        return Claims()
