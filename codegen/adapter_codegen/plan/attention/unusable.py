"""Attention whose projections are known, and still not enough for a method.

The runtime refuses these when an adapter is added; the plan says so before anything is written. LoRA keeps its other places,
so its diagnostic is a note. A prefix belongs in every attention: only where some instances of the layer lack this one
(cross-attention that a config adds), prefix tuning holds for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapter_codegen.model import AttentionRoles, LayerPlan, Level, Method
from adapter_codegen.plan.attention.cores import Meeting
from adapter_codegen.plan.findings import Finding


def unusable(plan: LayerPlan, meetings: Sequence[Meeting]) -> Iterator[Finding]:
    """What speaks against LoRA on queries, keys and values, and against prefixes, in the attentions of a layer."""
    calls = {meeting.path: meeting.call.node for meeting in meetings}
    for roles in plan.attentions:
        node = calls.get(roles.core)
        if node is None:
            continue
        optional = any(f"{roles.core}.".startswith(f"{path}.") for path in plan.optional)
        if text := _against_lora(roles):
            yield Finding("P222", text, node, (Method.LORA,), Level.NOTE)
        if text := _against_prefix(roles):
            level = Level.NOTE if optional else Level.WARNING
            yield Finding("P211", text, node, (Method.PREFIX_TUNING,), level)


def _against_lora(roles: AttentionRoles) -> str:
    if roles.fused and not roles.fused_layout:
        return f"The order in which `{roles.fused}` gives queries, keys and values is not shown, so LoRA cannot adapt one."
    if roles.key and roles.key == roles.value:
        return f"`{roles.key}` gives keys and values together, so LoRA cannot adapt one of them."
    return ""


def _against_prefix(roles: AttentionRoles) -> str:
    if roles.key and roles.key == roles.value:
        return f"`{roles.key}` gives keys and values together, so the width of either does not show."
    if not roles.head_dim:
        return f"The width of a key head of `{roles.core or 'self'}` is not stated by an attribute."
    return ""
