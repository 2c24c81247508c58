"""Which outputs of a projection that gives several of queries, keys and values are which, seen on upstream (O6).

Each output that is declared to be a query, and no other, has a gradient from the queries that meet keys in the core; likewise for keys and
values. Norms, rotations and casts on the way mix a part with itself only, so that nothing needs to be known of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from conformance.outputs import seeded
from conformance.reference.cores import CoreWatch
from conformance.reference.layout import Attention


def assert_parts(upstream: nn.Module, attention: Attention, inputs: dict[str, Any]) -> None:
    """What arrives as each role comes out of those outputs that the layout says, and of all of these."""
    _assert_spans(upstream, attention, attention.fused or attention.key, attention.spans, attention.order, inputs)
    _assert_spans(upstream, attention, attention.gate, attention.gate_spans, attention.gate_order, inputs)


def _assert_spans(
    upstream: nn.Module,
    attention: Attention,
    path: str,
    spans: Mapping[str, tuple[int, int]],
    order: Sequence[int],
    inputs: dict[str, Any],
) -> None:
    """Gates do not arrive at the core: whatever else the projection gives is no query."""
    found = _arriving(upstream, attention.core, path, inputs) if spans else {}
    for role, (start, stop) in spans.items():
        declared = set(order[start:stop]) if role != "gate" else set[int]()
        arrived = found.get(role, set())
        if arrived != declared:
            wrong, missing = sorted(arrived - declared), sorted(declared - arrived)
            raise AssertionError(
                f"{path}: as {role} arrive outputs {wrong[:8]} that are declared to be something else,"
                f" and {missing[:8]} do not that are declared to be it"
            )


def _arriving(upstream: nn.Module, core: str, path: str, inputs: dict[str, Any]) -> dict[str, set[int]]:
    """Role -> the outputs of the projection that what arrives at the core is computed of."""
    outputs: list[Tensor] = []

    def cut_off(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_(True))
        return outputs[-1].clone()  # upstream may clip it in place

    watch = CoreWatch(upstream, [core])
    handle = upstream.get_submodule(path).register_forward_hook(cut_off)
    try:
        with torch.enable_grad(), seeded(), watch:
            upstream(**inputs)
    finally:
        handle.remove()
        watch.remove()
    found: dict[str, set[int]] = {}
    for seen in watch.seen.get(core, ()):
        for role, tensor in seen.items():
            found.setdefault(role, set()).update(_sources(tensor, outputs[0]))
    return found


def _sources(tensor: Tensor, outputs: Tensor) -> list[int]:
    """The last indices of `outputs` that `tensor` depends on."""
    if not tensor.requires_grad:
        return []
    weights = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float32)
    (gradient,) = torch.autograd.grad(
        (tensor * weights.to(tensor.dtype)).sum(), outputs, retain_graph=True, allow_unused=True
    )
    return [] if gradient is None else gradient.flatten(0, -2).any(0).nonzero().flatten().tolist()
