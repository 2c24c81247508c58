"""The projections that are declared as those of a mixer are the projections of one, seen on upstream.

What a first one gives at one position reaches what its layer gives at others, and what a last one gives is as wide as the stream. Both
are modules that run, and nothing else reads their weights: a kernel that computes with a weight passes by what an adapter adds to
the module's output. That is asked in training as well, where kernels stand in the place of modules; upstream reads the weights for
them even where, without the kernel, it goes on by another way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from conformance.outputs import seeded
from conformance.reference.layout import Layer, Layout

_NAMES = ("weight", "bias")


def assert_mixes(upstream: nn.Module, layout: Layout, inputs: dict[str, Any]) -> None:
    """What the layout declares as projections of mixers plays these roles."""
    for layer in layout.layers:
        for path in layer.mixer_first:
            if not _reaches_others(upstream, layer, path, inputs):
                raise AssertionError(
                    f"{path} is declared as first projection of a mixer, but reaches no other position"
                )
    paths = [path for layer in layout.layers for path in (*layer.mixer_first, *layer.mixer_last)]
    for training in (False, True):
        with _watched(upstream, paths) as (read, run):
            upstream.train(training)
            with torch.no_grad(), seeded(5):
                upstream(**inputs)
            upstream.eval()
        if read or set(paths) - run:
            problem = f"reads the weights of {sorted(read)}" if read else f"does not run {sorted(set(paths) - run)}"
            raise AssertionError(f"upstream {problem}, which are declared as projections of a mixer")


def _reaches_others(upstream: nn.Module, layer: Layer, path: str, inputs: dict[str, Any]) -> bool:
    """Whether what a projection gives at the middle of each row reaches what the layer gives behind it."""
    before, after = (_given(upstream, layer, path, inputs, noise) for noise in (0.0, 1.0))
    return any(
        not torch.equal(one[:, one.shape[1] // 2 + 1 :], other[:, other.shape[1] // 2 + 1 :])
        for one, other in zip(before, after, strict=True)
    )


def _given(upstream: nn.Module, layer: Layer, path: str, inputs: dict[str, Any], noise: float) -> list[Tensor]:
    """What the layer gives, with noise on one position of what a projection in it gives."""
    found: list[Tensor] = []

    def disturbed(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, output.shape[1] // 2] += noise
        return changed

    def left(module: nn.Module, args: Any, output: Any) -> None:
        found.append((output if isinstance(output, Tensor) else output[0]).detach())

    handles = [
        upstream.get_submodule(path).register_forward_hook(disturbed),
        upstream.get_submodule(layer.path).register_forward_hook(left),
    ]
    try:
        with torch.no_grad(), seeded(5):
            upstream(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextlib.contextmanager
def _watched(upstream: nn.Module, paths: list[str]) -> Iterator[tuple[set[str], set[str]]]:
    """The paths of modules whose parameters were read while their own forward did not run, and of those that ran."""
    read, run = set[str](), set[str]()
    before = {path: type(upstream.get_submodule(path)) for path in paths}
    for path, kind in before.items():
        upstream.get_submodule(path).__class__ = _watching(kind, path, read, run)
    try:
        yield read, run
    finally:
        for path, kind in before.items():
            upstream.get_submodule(path).__class__ = kind


def _watching(kind: type[nn.Module], path: str, read: set[str], run: set[str]) -> type[nn.Module]:
    running: list[str] = []

    def parameter(name: str) -> property:
        def get(module: nn.Module) -> Any:
            if not running:
                read.add(path)
            return module._parameters[name]

        return property(get)

    def forward(self: Any, *args: Any) -> Any:
        running.append(path)
        try:
            return kind.forward(self, *args)
        finally:
            running.pop()
            run.add(path)

    return type(kind.__name__, (kind,), {"forward": forward, **{name: parameter(name) for name in _NAMES}})
