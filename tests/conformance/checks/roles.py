"""The roles that the generated mixins declare are those that the modules play when upstream runs.

Nothing of the plan is believed: which modules hold an attention core, which projection feeds its queries, keys and values, and
where the residual additions are, is observed on the untouched model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import initialised
from conformance.reference.bottleneck import claims_of, sites_of
from conformance.reference.layout import Attention, Layout, layout_of
from conformance.reference.prefix import IMPLEMENTATION, reference_attention
from conformance.subjects import Subject

ROLES = ("query", "key", "value")


def roles_are_true(subject: Subject) -> None:
    layout = layout_of(initialised(subject))
    upstream = subject.upstream()
    inputs = subject.padded_inputs()
    _assert_cores(upstream, layout, inputs)
    for attention in layout.attentions:
        for role in ROLES:
            _assert_feeds(upstream, attention, role, inputs)
    sites_of(subject.upstream(), claims_of(initialised(subject), layout, inputs), inputs)


def _assert_cores(upstream: nn.Module, layout: Layout, inputs: dict[str, Any]) -> None:
    called = set(observed(upstream, inputs))
    declared = {attention.core for attention in layout.attentions}
    if called != declared:
        raise AssertionError(f"cores that ran: {sorted(called)}; declared: {sorted(declared)}")


def _assert_feeds(upstream: nn.Module, attention: Attention, role: str, inputs: dict[str, Any]) -> None:
    """Noise on the projection changes what arrives as `role`, and nothing else."""
    path = getattr(attention, role) or (attention.fused if attention.spans else "")
    if not path:
        return
    projection = upstream.get_submodule(path)
    weight = projection.weight
    before, kept = observed(upstream, inputs)[attention.core], weight.detach().clone()
    outputs = (weight if isinstance(projection, nn.Linear) else weight.T)[slice(*attention.spans.get(role, (None,)))]
    with torch.no_grad():
        outputs.add_(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(9)))
        after = observed(upstream, inputs)[attention.core]
        weight.copy_(kept)
    changed = {name for name in ROLES if not torch.equal(before[name], after[name])}
    meant = {"key", "value"} if attention.shares_projection and role != "query" else {role}
    if changed != meant:
        raise AssertionError(f"{path} is declared as {role}, but feeds {sorted(changed)}")


def observed(upstream: nn.Module, inputs: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Queries, keys and values of one forward, as they arrive at each attention core (by path)."""
    paths = {module: path for path, module in upstream.named_modules()}
    seen: dict[str, dict[str, Tensor]] = {}

    def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        # A core that runs several times (ALBERT) counts when it first does: later it also sees what it did before.
        seen.setdefault(paths[module], {"query": query, "key": key, "value": value})
        return reference_attention(module, query, key, value, *args, **kwargs)

    with torch.no_grad(), _attention(upstream, record):
        upstream(**inputs)
    return seen


@contextlib.contextmanager
def _attention(upstream: nn.Module, function: Any) -> Iterator[None]:
    from transformers import AttentionInterface

    before = upstream.config._attn_implementation
    AttentionInterface.register(IMPLEMENTATION, function)
    upstream.set_attn_implementation(IMPLEMENTATION)
    try:
        yield
    finally:
        AttentionInterface.register(IMPLEMENTATION, reference_attention)
        upstream.set_attn_implementation(before)
