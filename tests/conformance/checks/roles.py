"""The roles that the generated mixins declare are those that the modules play when upstream runs.

Nothing of the plan is believed: which modules hold an attention core, which projection feeds its queries, keys and values, and
where the residual additions are, is observed on the untouched model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import initialised
from conformance.checks.feed_forward import assert_feeds_forward
from conformance.checks.mixers import assert_mixes
from conformance.checks.parts import assert_parts
from conformance.outputs import seeded
from conformance.reference.bottleneck import claims_of, sites_of
from conformance.reference.cores import ROLES, CoreWatch, Seen, observed, only_mixes
from conformance.reference.layout import Attention, Layout, layout_of
from conformance.reference.streams import assert_streams
from conformance.subjects import Subject


def roles_are_true(subject: Subject) -> None:
    layout = layout_of(initialised(subject))
    upstream = subject.upstream()
    inputs = subject.uncached_inputs()
    _assert_cores(upstream, layout, inputs)
    for attention in layout.attentions:
        for role in ROLES:
            assert_feeds(upstream, attention, role, inputs)
        for path in attention.value_beside:
            assert_feeds(upstream, replace(attention, value=path), "value", inputs)
        assert_parts(upstream, attention, inputs)
    assert_feeds_forward(upstream, layout, inputs)
    assert_mixes(upstream, layout, inputs)
    assert_streams(upstream, layout, inputs)
    sites_of(subject.upstream(), claims_of(initialised(subject), layout, inputs), inputs)


def _assert_cores(upstream: nn.Module, layout: Layout, inputs: dict[str, Any]) -> None:
    declared = {attention.core for attention in layout.attentions}
    layers = tuple(f"{layer.path}." for layer in layout.layers)
    seen = observed(upstream, sorted(declared), inputs)
    called = {core for core in seen if f"{core}.".startswith(layers)}
    called -= {core for core in called - declared if all(map(only_mixes, seen[core]))}
    if declared - called:
        raise AssertionError(f"cores that are declared and did not run: {sorted(declared - called)}")
    if called - declared:
        raise AssertionError(f"cores that ran and are not declared: {sorted(called - declared)}")


def assert_feeds(upstream: nn.Module, attention: Attention, role: str, inputs: dict[str, Any]) -> None:
    """Noise on the projection changes what arrives as `role`, and nothing else, where it first changes anything."""
    path = getattr(attention, role) or (attention.fused if attention.spans else "")
    if not path:
        return
    before = _seen_at(attention, upstream, inputs)
    with _noise_on(upstream.get_submodule(path), attention, role):
        after = _seen_at(attention, upstream, inputs)
    pairs = zip(before, after, strict=True)
    changes = ({name for name in one if not _same(one[name], other[name])} for one, other in pairs)
    changed: set[str] = next((names for names in changes if names), set())
    shared = attention.shares_projection or (attention.lacks_value and not attention.fused)
    both = shared and role != "query" and role not in attention.spans
    meant = {"key", "value"} if both else {role}
    if changed > meant:
        changed &= _with_gradient(upstream, attention, path, inputs)
    if changed != meant:
        raise AssertionError(f"{path} is declared as {role}, but feeds {sorted(changed)}")


def _seen_at(attention: Attention, upstream: nn.Module, inputs: dict[str, Any]) -> list[Seen]:
    with seeded():  # some draw the keys that they look at first
        return observed(upstream, [attention.core], inputs)[attention.core]


def _with_gradient(upstream: nn.Module, attention: Attention, path: str, inputs: dict[str, Any]) -> set[str]:
    """What the projection is computed into. What it only chooses (ProbSparse attention asks for few queries, by their keys) has none."""
    upstream.requires_grad_(True)
    watch = CoreWatch(upstream, [attention.core])
    try:
        with seeded(), watch:
            upstream(**inputs)
        seen = [pair for one in watch.seen[attention.core] for pair in one.items()]
        weight = upstream.get_submodule(path).weight
        return {name for name, tensor in seen if tensor.requires_grad and _depends(tensor, weight)}
    finally:
        watch.remove()
        upstream.requires_grad_(False)


def _depends(tensor: Tensor, weight: Tensor) -> bool:
    weights = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((tensor * weights).sum(), weight, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.any())


@contextlib.contextmanager
def _noise_on(projection: nn.Module, attention: Attention, role: str) -> Iterator[None]:
    """On weight and bias of those outputs that are `role`: where a decoder starts from zeros, the weight alone shows nothing.

    A weight that is tied to that of another layer (Zamba's) is changed in this module alone.
    """
    tied = dict(projection._parameters)
    projection._parameters.update({name: _copied(parameter) for name, parameter in tied.items()})
    weight = projection.weight if isinstance(projection, nn.Linear) else projection.weight.T
    places = torch.arange(len(weight))
    if role in attention.spans:
        places = torch.tensor(attention.order or places.tolist())[slice(*attention.spans[role])]
    tensors = [weight] if projection.bias is None else [weight, projection.bias]
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for tensor in tensors:
            tensor[places] += torch.randn(tensor[places].shape, generator=generator)
        yield
    projection._parameters.update(tied)


def _copied(parameter: nn.Parameter | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
