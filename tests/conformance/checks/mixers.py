"""The projections that are declared as those of a mixer are the projections of one, seen on upstream.

What a first one gives at one position reaches what its layer gives at others, or is a factor of what was mixed (RecurrentGemma's gate). First
and last ones are modules that run, and nothing else reads their weights: a kernel that computes with a weight passes by what an adapter adds to
the module's output. That is asked in training as well, where kernels stand in the place of modules; upstream reads the weights for
them even where, without the kernel, it goes on by another way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conformance.outputs import removed, seeded
from conformance.reference.layout import Layer, Layout

_NAMES = ("weight", "bias")


def assert_mixes(upstream: nn.Module, layout: Layout, inputs: dict[str, Any]) -> None:
    """What the layout declares as projections of mixers plays these roles."""
    for layer in layout.layers:
        for path in layer.mixer_first:
            if not (_reaches_others(upstream, layer, path, inputs) or _gates(upstream, layer, path, inputs)):
                raise AssertionError(
                    f"{path} is declared as first projection of a mixer, but reaches no other position, and gates nothing"
                )
    paths = [path for layer in layout.layers for path in (*layer.mixer_first, *layer.mixer_last)]
    for training in (False, True) if paths else ():  # without labels, some upstream models do not run in training
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
    before, after = (_given(upstream, layer.path, {path: (0, noise)}, inputs) for noise in (0.0, 1.0))
    pairs = zip(before.left, after.left, strict=True)
    return any(not torch.equal(*(given[:, given.shape[1] // 2 + 1 :] for given in pair)) for pair in pairs)


def _gates(upstream: nn.Module, layer: Layer, path: str, inputs: dict[str, Any]) -> bool:
    """Whether what a projection gives is a factor of what was mixed: what it does at a position depends on what another one gave before.

    Asked of what a last projection reads, since a norm behind the mixer makes all depend on all; where none is declared, of what the
    sublayer around it gives.
    """

    def seen(at: str, other: str, noise: float, before: float) -> Tensor:
        given = _given(upstream, at, {path: (0, noise), other: (-1, before)}, inputs)
        return torch.stack(given.read if layer.mixer_last else given.left)

    sublayer, _, _ = path.removeprefix(f"{layer.path}.").partition(".")
    for at in layer.mixer_last or (f"{layer.path}.{sublayer}",):
        for other in set(layer.mixer_first) - {path}:
            alone, moved = (seen(at, other, 1.0, one) - seen(at, other, 0.0, one) for one in (0.0, 1.0))
            if bool((moved - alone).abs().max() > 1e-4 * alone.abs().max()) and bool(alone.any()):
                return True
    return False


@dataclass
class _Seen:
    """What a module read and gave, at each of its calls."""

    read: list[Tensor] = field(default_factory=list)
    left: list[Tensor] = field(default_factory=list)


def _given(upstream: nn.Module, path: str, noises: dict[str, tuple[int, float]], inputs: dict[str, Any]) -> _Seen:
    """What the module at `path` reads and gives, with noise on one position of what some projections give.

    Args:
        noises: for a projection, how far from the middle of each row, and how much.
    """
    found = _Seen()

    def disturbed(place: int, noise: float) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[:, output.shape[1] // 2 + place] += noise
            return changed

        return hook

    def left(module: nn.Module, args: Any, output: Any) -> None:
        found.read += [one.detach() for one in args[:1]]
        found.left.append((output if isinstance(output, Tensor) else output[0]).detach())

    handles = [upstream.get_submodule(path).register_forward_hook(left)]
    handles += [upstream.get_submodule(at).register_forward_hook(disturbed(*noise)) for at, noise in noises.items()]
    with removed(handles), torch.no_grad(), seeded(5):
        upstream(**inputs)
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
