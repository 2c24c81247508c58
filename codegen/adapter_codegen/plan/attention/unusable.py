"""Attention whose projections are known, and still not enough for a method.

The runtime refuses these when an adapter is added; the plan says so before anything is written. LoRA keeps its other places,
so its diagnostic is a note. A prefix belongs in every attention: only where some instances of the layer lack this one
(cross-attention that a config adds), prefix tuning holds for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import AttentionRoles, LayerPlan, Level, Method
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.findings import Finding


def unusable(plan: LayerPlan, cores: Sequence[AttentionCore]) -> Iterator[Finding]:
    """What speaks against LoRA on queries, keys and values, and against prefixes, in the attentions of a layer."""
    for core in cores:
        if core.kind.projects:
            yield Finding(
                Problem.PROJECTS_ITSELF, core.call.node, (Method.PREFIX_TUNING,), {"core": core.path or "self"}
            )
    calls = {core.path: core.call.node for core in cores if core.kind.has_keys}
    for roles in plan.attentions:
        node = calls.get(roles.core)
        if node is None:
            continue
        optional = any(f"{roles.core}.".startswith(f"{path}.") for path in plan.optional)
        if finding := _against_lora(roles, node):
            yield finding
        if finding := _against_prefix(roles, node, Level.NOTE if optional else None):
            yield finding


def _against_lora(roles: AttentionRoles, node: cst.CSTNode) -> Finding | None:
    if roles.fused and not roles.orders:
        return Finding(Problem.FUSED_ORDER_UNKNOWN, node, (Method.LORA,), {"fused": roles.fused})
    if roles.key and roles.key == roles.value and not roles.orders:
        return Finding(Problem.FUSED_KEYS_AND_VALUES, node, (Method.LORA,), {"key": roles.key})
    return None


def _against_prefix(roles: AttentionRoles, node: cst.CSTNode, milder: Level | None) -> Finding | None:
    if roles.key and roles.key == roles.value and not roles.orders:
        return Finding(Problem.KEYS_ARE_VALUES, node, (Method.PREFIX_TUNING,), {"key": roles.key}, milder)
    if not roles.head_dim:
        core = {"core": roles.core or "self"}
        return Finding(Problem.NO_HEAD_WIDTH, node, (Method.PREFIX_TUNING,), core, milder)
    return None
