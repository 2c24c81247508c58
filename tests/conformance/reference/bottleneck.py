"""Bottleneck adapters on upstream, at the residual additions of its forward.

Where they stand is claimed by our model, without any adapter: each host says what it adds to what (`claims_of`). Each claim has to be an
addition that upstream's own forward makes, of the same two tensors (`sites_of`), or it is no site. There the adapter is computed. Where two
branches are added to each other before they join the stream (``attention + mlp + residual``), that is the site of both, the attention first.
Where upstream's own code adds what a host gives, the site is an output of one of its modules (``handed_on.py``).
That no addition is missing is held by the check "branches".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adapter_runtime.methods.bottleneck.layer import BottleneckLayer, BranchBottleneckLayer
from conformance.methods import Bottleneck
from conformance.outputs import seeded
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.handed_on import BranchSite, Given, HandedOn, branch_sites, handed_on
from conformance.reference.layout import Layout, join
from conformance.reference.together import Averaged, Fused, Together

_IN_PLACE = {torch.Tensor.add_, torch.Tensor.__iadd__}
_ADDITIONS = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, *_IN_PLACE}
_ACTIVATIONS = {"relu": torch.relu, "swish": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}

Place = tuple[str, int, int]  # path of the module in whose own code it is, which of its calls, which addition there


@dataclass(frozen=True)
class Claim:
    """What one call of a host of ours adds to the stream."""

    host: str  # path
    location: str
    x: Tensor
    residual: Tensor
    norm: str  # path of what normalises the sum; "" = nothing


@dataclass(frozen=True)
class AdditionSite:
    """An addition of upstream's at which bottlenecks stand."""

    hosts: tuple[tuple[str, str], ...]  # host and location of each branch, in the order in which they join the stream
    branches: tuple[int | tuple[Place, int], ...]  # of each host: which operand here, or of another addition
    residual: int  # which operand here
    norm: str


def claims_of(ours: nn.Module, layout: Layout, inputs: Mapping[str, Any]) -> list[Claim | HandedOn]:
    """What the hosts of a model without active adapters add, or hand on, in the order of their calls."""
    paths = {module: path for path, module in ours.named_modules()}
    claims: list[Claim | HandedOn] = []

    def recording(host: str, location: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        adds = not isinstance(ours.get_submodule(host), BranchBottleneckLayer)

        def forward(x: Tensor, residual: Tensor | None = None, norm: Any = None, *rest: Any, **options: Any) -> Tensor:
            if norm is not None and norm not in paths:
                raise DoesNotApply(Reason.BRANCH_NOT_FOLLOWED)
            # Copies: upstream may go on to change what it was given.
            stream = None if residual is None else residual.clone()
            if adds and stream is not None:
                claims.append(Claim(host, location, x.clone(), stream, "" if norm is None else paths[norm]))
            else:
                claims.append(HandedOn(host, location, x.clone(), stream))
            return original(x, residual, norm, *rest, **options)

        return forward

    hosts = [(location, host, ours.get_submodule(host)) for layer in layout.layers for location, host in layer.hosts]
    try:
        for location, host, module in hosts:
            module.bottleneck_layer_forward = recording(host, location, module.bottleneck_layer_forward)
        with torch.no_grad(), all_hosts_run(), seeded(5):
            ours(**inputs)
    finally:
        for _, _, module in hosts:
            module.__dict__.pop("bottleneck_layer_forward", None)
    return claims


@contextlib.contextmanager
def all_hosts_run() -> Iterator[None]:
    """Parallel blocks call their hosts also where no adapter is active, though they then add in another order than upstream."""
    before = BottleneckLayer.runs
    BottleneckLayer.runs = property(lambda self: True)
    try:
        yield
    finally:
        BottleneckLayer.runs = before


class Watch(TorchFunctionMode):
    """Sees the additions of a forward of upstream, each with its place; `at_addition` may give another value for a sum."""

    def __init__(self, upstream: nn.Module, at_addition: Callable[[Place, Sequence[Tensor], Tensor], Tensor]) -> None:
        super().__init__()
        self.at_addition = at_addition
        self._paused = False
        self._frames: list[list[Any]] = [["", 0, 0]]
        self._calls: dict[str, int] = {}
        self._handles = []
        for path, module in upstream.named_modules():
            self._handles.append(module.register_forward_pre_hook(lambda module, args, path=path: self._enter(path)))
            self._handles.append(module.register_forward_hook(lambda module, args, output: self._leave()))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While the reference itself computes."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _enter(self, path: str) -> None:
        if not path:
            self._calls, self._frames = {}, [["", 0, 0]]
        self._calls[path] = self._calls.get(path, 0) + 1
        self._frames.append([path, self._calls[path], 0])

    def _leave(self) -> None:
        self._frames.pop()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        tensors = len(args) == 2 and all(isinstance(value, Tensor) for value in args)
        if self._paused or func not in _ADDITIONS or not tensors or kwargs:
            return func(*args, **(kwargs or {}))
        operands = [args[0].clone(), args[1]] if func in _IN_PLACE else args
        frame = self._frames[-1]
        frame[2] += 1
        with self.paused():
            return self.at_addition((frame[0], frame[1], frame[2]), operands, func(*args))


def sites_of(
    upstream: nn.Module, claims: Sequence[Claim | HandedOn], inputs: Mapping[str, Any]
) -> dict[Place | Given, AdditionSite | BranchSite]:
    """The additions of upstream that `claims` are about, in their order; then the outputs that go through others.

    Raises:
        AssertionError: upstream makes no such addition, or has no such output.
    """
    search = _Search([claim for claim in claims if isinstance(claim, Claim)])
    handed = [claim for claim in claims if isinstance(claim, HandedOn)]
    watch = Watch(upstream, search.at_addition)
    try:
        with torch.no_grad(), seeded(5), watch:
            upstream(**inputs)
    finally:
        watch.remove()
    if search.pending:
        missing = ", ".join(dict.fromkeys(f"{claim.host} ({claim.location})" for claim in search.pending))
        raise AssertionError(f"upstream makes no addition of what these hosts add: {missing}")
    branches = branch_sites(upstream, handed, inputs) if handed else []
    return {**search.sites, **{site.x: site for site in branches}}


class _Search:
    """Finds the claims among the additions of one forward."""

    def __init__(self, pending: list[Claim]) -> None:
        self.pending = pending
        self.sites: dict[Place, AdditionSite] = {}
        self._joined: list[tuple[Tensor, Place, Claim, Claim, int]] = []

    def at_addition(self, place: Place, operands: Sequence[Tensor], result: Tensor) -> Tensor:
        for index in (0, 1):
            x, residual = operands[index], operands[1 - index]
            if self._alone(place, x, residual, index) or self._both(place, x, residual, index):
                break
            self._join(place, x, residual, index, result)
        return result

    def _alone(self, place: Place, x: Tensor, residual: Tensor, index: int) -> bool:
        for claim in self.pending:
            if _same(x, claim.x) and _same(residual, claim.residual):
                self.sites[place] = AdditionSite(((claim.host, claim.location),), (index,), 1 - index, claim.norm)
                self.pending = [one for one in self.pending if one is not claim]
                return True
        return False

    def _join(self, place: Place, x: Tensor, other: Tensor, index: int, result: Tensor) -> None:
        """An addition of two branches, which our hosts add one after the other."""
        for first in self.pending:
            for second in self.pending:
                if first is second or not (_same(x, first.x) and _same(other, second.x)):
                    continue
                if torch.allclose(second.residual, first.x + first.residual):
                    self._joined.append((result, place, first, second, index))

    def _both(self, place: Place, x: Tensor, residual: Tensor, index: int) -> bool:
        for total, other, first, second, at in self._joined:
            open_still = any(one is first for one in self.pending)
            if x is total and open_still and _same(residual, first.residual):
                hosts = ((first.host, first.location), (second.host, second.location))
                self.sites[place] = AdditionSite(hosts, ((other, at), (other, 1 - at)), 1 - index, second.norm)
                self.pending = [one for one in self.pending if one is not first and one is not second]
                return True
        return False


def _same(one: Tensor, other: Tensor) -> bool:
    # Not bitwise: parallel blocks may have added in another order before.
    return one.shape == other.shape and one.dtype == other.dtype and torch.allclose(one, other, atol=1e-5, rtol=1e-4)


@contextlib.contextmanager
def bottlenecks_applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, Bottleneck]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """Calls of `upstream` compute the `adapters`, stacked in this order or `together`, at the sites of the layout."""
    if layout.sites is None:
        raise ValueError("the layout holds no sites: compute them by sites_of, on upstream without adapters")

    def adapted(host: str, location: str, x: Tensor, residual: Tensor | None, norm: Norm = None) -> Tensor:
        here = [(name, part) for name, part in adapters if location in part.locations]
        if not here:
            return x
        where = layout.part_of(host)
        present = [
            (part, Weights(weights, join(host, "adapters", name), rule_of(where, part, name))) for name, part in here
        ]
        if isinstance(together, Fused):
            attention = Weights(weights, join(host, "adapter_fusion_layer", together.name))
            return through_fusion(x, residual, norm, present, attention)
        return through(x, residual, norm, present, together)

    def computed(host: str, location: str, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
        return _joined(adapted(host, location, x, residual, norm), residual, norm)

    additions = {place: site for place, site in layout.sites.items() if isinstance(site, AdditionSite)}
    branches = [site for site in layout.sites.values() if isinstance(site, BranchSite)]
    with _replaced(upstream, additions, computed), handed_on(upstream, branches, adapted):
        yield


@contextlib.contextmanager
def _replaced(
    upstream: nn.Module, sites: Mapping[Place, AdditionSite], compute: Callable[..., Tensor]
) -> Iterator[None]:
    """Forwards in which `compute` says what a sum is, or, where the sum is normalised, what the norm gives."""
    operands_of: dict[Place, Sequence[Tensor]] = {}
    kept = {
        other
        for site in sites.values()
        for entry in site.branches
        if not isinstance(entry, int)
        for other in entry[:1]
    }
    waiting: dict[int, tuple[Tensor, AdditionSite, list[Tensor], Tensor]] = {}

    def at_addition(place: Place, operands: Sequence[Tensor], result: Tensor) -> Tensor:
        if place in kept:
            operands_of[place] = operands
        site = sites.get(place)
        if site is None:
            return result
        branches = [operands[e] if isinstance(e, int) else operands_of[e[0]][e[1]] for e in site.branches]
        residual = operands[site.residual]
        if site.norm:
            waiting[id(result)] = (result, site, branches, residual)  # holds the sum, so that its id stays its own
            return result
        for (host, location), x in zip(site.hosts, branches, strict=True):
            residual = compute(host, location, x, residual, None)
        return _laid_out_as(result, residual)

    def at_norm(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        found = waiting.pop(id(inputs[0]), None)
        if found is None:
            return None
        _, site, branches, residual = found
        with watch.paused():
            norms = [None] * (len(branches) - 1) + [type(module).forward.__get__(module)]
            for (host, location), x, norm in zip(site.hosts, branches, norms, strict=True):
                residual = compute(host, location, x, residual, norm)
            return residual

    watch = Watch(upstream, at_addition)
    norms = dict.fromkeys(site.norm for site in sites.values() if site.norm)
    handles = [upstream.get_submodule(path).register_forward_hook(at_norm) for path in norms]
    try:
        with watch:
            yield
    finally:
        watch.remove()
        for handle in handles:
            handle.remove()


def _laid_out_as(like: Tensor, values: Tensor) -> Tensor:
    """`values` with the strides of `like`: upstream may go on with a view of it."""
    if values.stride() == like.stride():
        return values
    return torch.empty_strided(like.shape, like.stride(), dtype=values.dtype).copy_(values)


def rule_of(where: str, part: Bottleneck, name: str) -> str:
    """The name under which a checkpoint stores the rule of hypercomplex layers of the part at `where`; "" where there are none."""
    return join(where, f"shared_parameters.{name}.phm_rule") if part.hypercomplex else ""


@dataclass(frozen=True)
class Weights:
    """Tensors of one bottleneck or fusion by their names in a checkpoint."""

    all: Mapping[str, Tensor]
    prefix: str
    rule: str = ""  # name of the tensor (n, n, n) that hypercomplex layers share

    def linear(self, name: str, x: Tensor) -> Tensor:
        if self.rule:
            return self._hypercomplex(f"{self.prefix}.{name}", x)
        return x @ self.all[f"{self.prefix}.{name}.weight"].T + self.all[f"{self.prefix}.{name}.bias"]

    def _hypercomplex(self, name: str, x: Tensor) -> Tensor:
        """x times the sum over i of rule_i (x) (left_i right_i), a sum of Kronecker products."""
        blocks = self.all[f"{name}.W_left"] @ self.all[f"{name}.W_right"]
        matrix = sum(torch.kron(rule, block) for rule, block in zip(self.all[self.rule], blocks, strict=True))
        return x @ matrix + self.all[f"{name}.b"]


Placed = Sequence[tuple[Bottleneck, Weights]]
Norm = Callable[[Tensor], Tensor] | None


def through(
    x: Tensor, residual: Tensor | None, norm: Norm, adapters: Placed, together: Averaged | None = None
) -> Tensor:
    """The output of a sublayer under bottlenecks that run one after the other, each on what the one before gave."""
    if together is not None:
        x = together.of([x + _update(part, weights, _seen(part, x, residual, norm)) for part, weights in adapters])
    else:
        for part, weights in adapters:
            x = x + _update(part, weights, _seen(part, x, residual, norm))
    return x


def through_fusion(x: Tensor, residual: Tensor | None, norm: Norm, adapters: Placed, attention: Weights) -> Tensor:
    """All adapters see what the last one does; what they add is mixed by an attention whose query is what they see."""
    seen = _seen(adapters[-1][0], x, residual, norm)
    values = torch.stack([_update(part, weights, seen) for part, weights in adapters], dim=-2)  # (B, L, N, H)
    query, keys = attention.linear("query", seen), attention.linear("key", values)
    shares = (query[..., None, :] * keys).sum(-1).softmax(-1)
    mixture = (shares[..., None] * values).sum(-2)
    return x + mixture @ attention.all[f"{attention.prefix}.value.weight"].T


def _seen(part: Bottleneck, x: Tensor, residual: Tensor | None, norm: Norm) -> Tensor:
    """What a bottleneck reads. Where there is no single stream, the output of the sublayer is all there is."""
    if residual is None:
        assert not part.parallel, "it would read the stream"
        return x
    if part.parallel:
        return residual
    return _joined(x, residual, norm) if part.norm_first else x


def _update(part: Bottleneck, weights: Weights, seen: Tensor) -> Tensor:
    """What a bottleneck adds."""
    hidden = _ACTIVATIONS[part.activation](weights.linear("adapter_down.0", seen))
    return part.scaling * weights.linear("adapter_up", hidden)


def _joined(x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
    return x + residual if norm is None else norm(x + residual)
