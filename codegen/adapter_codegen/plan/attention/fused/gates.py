"""A projection that gives queries and, beside them, gates: what is attended to is multiplied by another part of its outputs.

Qwen3-Next projects ``query, gate = self.q_proj(x)...chunk(2, dim=-1)``, and opens by the gate what comes out of the core. An adapter
of the queries must not reach the gates, so the order of both is stated.
"""

from __future__ import annotations

from collections.abc import Callable

from adapter_codegen.model import OutputOrder
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.attention.fused.cuts import Cuts
from adapter_codegen.plan.attention.fused.order import orders
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors
from adapter_codegen.plan.flow.walks import first_argument


def gates(
    path: str, core: AttentionCore, projected: Value, scene: Scene, is_attended: Callable[[Value], bool]
) -> tuple[OutputOrder, ...] | None:
    """The orders of queries and gates among the outputs of a projection; () where they are not proven, None: it gives no gates.

    Args:
        path: of the projection of the queries.
        projected: the call of the projection behind the core.
        is_attended: whether a value is what a core gives.
    """
    given = first_argument(projected)
    beside = {} if given is None else ancestors(given, is_attended)
    if not any(value.op is Op.SUBMODULE and value.path == path for value in beside.values()):
        return None
    cuts = Cuts(path, core.path, scene.kinds)
    parts = [value for value in beside.values() if cuts.is_part(value)]
    found = {orders(path, core.path, {"q": core.query, "g": part}, scene) for part in parts}
    return found.pop() if len(found) == 1 else ()
