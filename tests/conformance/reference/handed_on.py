"""Bottlenecks whose output upstream's own code adds: in a function of its own, scaled, or mixed into several streams.

Such a host says what it was given (`HandedOn`). Upstream must have a module that gives this very tensor, or one with it among its
outputs; there, behind the last that does, the adapter is computed. The residual, if the host is given one, must be what some module
gets or gives before. What upstream does with the sum is upstream's own affair.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conformance.outputs import seeded

Given = tuple[str, int, str, int]  # path of a module, which of its calls, "in" or "out", which of the tensors


@dataclass(frozen=True)
class HandedOn:
    """What one call of a host was given, and gives back unchanged."""

    host: str  # path
    location: str
    x: Tensor
    residual: Tensor | None


@dataclass(frozen=True)
class BranchSite:
    """A tensor of upstream's that goes through bottlenecks before it is added to anything."""

    host: str
    location: str
    x: Given  # an output
    residual: Given | None


class Givens:
    """Sees what the modules of upstream get and give; `at` may give another value for an output."""

    def __init__(self, upstream: nn.Module, at: Callable[[Given, Tensor], Tensor | None]) -> None:
        self.at = at
        self._calls: dict[str, int] = {}
        self._handles = []
        for path, module in upstream.named_modules():
            enter = self._entered(path)
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._left(path)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _entered(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            if not path:
                self._calls = {}
            self._calls[path] = self._calls.get(path, 0) + 1
            for index, value in enumerate((*args, *kwargs.values())):
                if isinstance(value, Tensor):
                    self.at((path, self._calls[path], "in", index), value)

        return hook

    def _left(self, path: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            values = output if isinstance(output, tuple) else (output,)
            if not all(value is None or isinstance(value, Tensor) for value in values):
                values = values[:1] if isinstance(values[0], Tensor) else ()
            given = [self._given((path, self._calls[path], "out", index), value) for index, value in enumerate(values)]
            if all(new is None for new in given):
                return None
            changed = tuple(old if new is None else new for old, new in zip(values, given, strict=True))
            return (*changed, *output[len(changed) :]) if isinstance(output, tuple) else changed[0]

        return hook

    def _given(self, key: Given, value: Tensor | None) -> Tensor | None:
        return None if value is None else self.at(key, value)


def branch_sites(upstream: nn.Module, claims: Sequence[HandedOn], inputs: Mapping[str, Any]) -> list[BranchSite]:
    """Where upstream has what hosts claim to be given.

    Raises:
        AssertionError: it has it nowhere.
    """
    seen: list[tuple[Given, Tensor]] = []
    watch = Givens(upstream, lambda key, value: seen.append((key, value.clone())))
    try:
        with torch.no_grad(), seeded(5):
            upstream(**inputs)
    finally:
        watch.remove()
    return [_site(claim, seen) for claim in claims]


def _site(claim: HandedOn, seen: Sequence[tuple[Given, Tensor]]) -> BranchSite:
    found = [(place, key) for place, (key, value) in enumerate(seen) if key[2] == "out" and _same(value, claim.x)]
    if not found:
        raise AssertionError(f"no module of upstream gives what {claim.host} ({claim.location}) is given")
    end, x = found[0]
    for place, key in found:  # a module that hands on what one inside of it gave
        if f"{x[0]}.".startswith(f"{key[0]}.") or key[0] == x[0].rpartition(".")[0]:
            end, x = place, key
    if claim.residual is None:
        return BranchSite(claim.host, claim.location, x, None)
    before = [key for key, value in seen[:end] if _same(value, claim.residual)]
    if not before:
        raise AssertionError(f"no module of upstream has the residual that {claim.host} ({claim.location}) is given")
    return BranchSite(claim.host, claim.location, x, before[-1])


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


@contextlib.contextmanager
def handed_on(upstream: nn.Module, sites: Sequence[BranchSite], compute: Callable[..., Tensor]) -> Iterator[None]:
    """Forwards in which `compute` says what an output is, from it and from the residual."""
    wanted = {site.residual for site in sites if site.residual is not None}
    by_output = {site.x: site for site in sites}
    kept: dict[Given, Tensor] = {}

    def at(key: Given, value: Tensor) -> Tensor | None:
        site = by_output.get(key)
        new = None
        if site is not None:
            residual = None if site.residual is None else kept[site.residual]
            new = compute(site.host, site.location, value, residual)
        if key in wanted:
            kept[key] = value if new is None else new
        return new

    watch = Givens(upstream, at)
    try:
        yield
    finally:
        watch.remove()
