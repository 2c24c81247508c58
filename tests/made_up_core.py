"""A kind of attention core that no model has: all that a new kind needs is a file like this one, and a line in the table.

The kernel is called ``radial_attention(query, key, value, mask, radius=...)``; the radius is a number.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapter_codegen.plan.attention.core import AttentionCore, Claims, CoreKind, Signs
from adapter_codegen.plan.attention.kinds.calls import attention_call, mask_argument, unclaimed_arguments
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value
from adapter_codegen.plan.flow.walks import last_name

_PARAMETERS = ("query", "key", "value", "mask", "radius")


class Radial(CoreKind):
    name = "radial attention"
    signs = Signs(calls=frozenset({"radial_attention"}))

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        if value.op is Op.FUNCTION and last_name(value) == "radial_attention" and value.through is None:
            yield from attention_call(self, value, _PARAMETERS, value.inputs, mask="mask")

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        return Claims(against=tuple(unclaimed_arguments(core)), mask=mask_argument(core, scene))
