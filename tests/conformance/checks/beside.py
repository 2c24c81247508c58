"""Layers that give what is added to the stream, and not the stream: their hosts are called beside them, in the loop around them (XLM).

What such a layer gives says nothing of what its hosts were given. What it is given says so, and what the next layer is: with all hosts
silent, nothing may have joined the stream between the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from conformance.reference.layout import Layer


@contextlib.contextmanager
def running(model: nn.Module, layers: Sequence[Layer]) -> Iterator[set[str]]:
    """The paths of the layers whose forwards run at a moment."""
    inside: set[str] = set()
    handles = []
    for layer in layers:
        module, path = model.get_submodule(layer.path), layer.path
        handles.append(module.register_forward_pre_hook(lambda module, args, path=path: inside.add(path)))
        handles.append(module.register_forward_hook(lambda module, args, output, path=path: inside.discard(path)))
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


def in_no_layer(name: str, layers: Sequence[Layer]) -> bool:
    """Whether a parameter belongs to a module that stands in no layer."""
    return not any(name.startswith(f"{layer.path}.") for layer in layers)


def joined_until_next(
    layer: Layer,
    layers: Sequence[Layer],
    given: Mapping[str, Tensor],
    results: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> list[str]:
    """The projections on which what the next layer is given depends, and what this one is given does not.

    Args:
        given: to layers, by path.
        results: of the last host of each layer, which stands for what follows the last layer of a list.
        weights: of all projections of the model.
    """
    start = given.get(layer.path)
    following = _next(layer, layers)
    end = results.get(layer.path) if following is None else given.get(following.path)
    if start is None or end is None:
        raise AssertionError(f"harness: what {layer.path}, or the layer behind it, is given does not show")
    before = _reached(start, weights)
    return [path for path in _reached(end, weights) if path not in before]


def _next(layer: Layer, layers: Sequence[Layer]) -> Layer | None:
    same = [one for one in layers if one.path.rpartition(".")[0] == layer.path.rpartition(".")[0]]
    following = same[same.index(layer) + 1 :]
    return following[0] if following else None


def _reached(value: Tensor, weights: Mapping[str, Tensor]) -> list[str]:
    if not value.requires_grad or not weights:
        return []
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad((value * weight).sum(), list(weights.values()), allow_unused=True, retain_graph=True)
    return [path for path, grad in zip(weights, found, strict=True) if grad is not None and bool(grad.any())]
