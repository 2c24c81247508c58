"""The roles that the generated mixins declare are those that the modules play when upstream runs.

Nothing of the plan is believed: which modules hold an attention core, which projection feeds its queries, keys and values, and
where the residual additions are, is observed on the untouched model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from conformance.adapted import initialised
from conformance.reference.bottleneck import claims_of, sites_of
from conformance.reference.cores import observed
from conformance.reference.layout import Attention, Layout, layout_of
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
    declared = {attention.core for attention in layout.attentions}
    layers = tuple(f"{layer.path}." for layer in layout.layers)
    called = {core for core in observed(upstream, sorted(declared), inputs) if f"{core}.".startswith(layers)}
    if called != declared:
        raise AssertionError(f"cores that ran: {sorted(called)}; declared: {sorted(declared)}")


def _assert_feeds(upstream: nn.Module, attention: Attention, role: str, inputs: dict[str, Any]) -> None:
    """Noise on the projection changes what arrives as `role`, and nothing else."""
    path = getattr(attention, role) or (attention.fused if attention.spans else "")
    if not path:
        return
    projection = upstream.get_submodule(path)
    weight = projection.weight
    before, kept = observed(upstream, [attention.core], inputs)[attention.core], weight.detach().clone()
    outputs = (weight if isinstance(projection, nn.Linear) else weight.T)[slice(*attention.spans.get(role, (None,)))]
    with torch.no_grad():
        outputs.add_(torch.randn(outputs.shape, generator=torch.Generator().manual_seed(9)))
        after = observed(upstream, [attention.core], inputs)[attention.core]
        weight.copy_(kept)
    changed = {name for name in ROLES if not torch.equal(before[name], after[name])}
    meant = {"key", "value"} if attention.shares_projection and role != "query" else {role}
    if changed != meant:
        raise AssertionError(f"{path} is declared as {role}, but feeds {sorted(changed)}")
