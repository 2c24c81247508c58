"""Bottleneck adapters on upstream, at the residual additions of its forward.

The additions are not told to us, they are found by watching upstream run: what comes out of an output projection is a
*branch*; it stays one through dropout, scaling and norms; an addition of a branch and a tensor that is none is a *site*. A
site is post-norm if nothing but one norm of its layer reads the sum. So a residual site that the tool missed or took for
another is seen here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conformance.methods import Bottleneck
from conformance.reference.layout import Layer, Layout, join
from conformance.reference.together import Averaged, Fused, Together

_ADDITIONS = {torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__}
# Functions through which a branch stays one. A product with a tensor is a layer scale or a part of a norm.
_PASSES = {
    torch.nn.functional.dropout,
    torch.nn.functional.layer_norm,
    torch.nn.functional.rms_norm,
    torch.mul,
    torch.Tensor.mul,
    torch.Tensor.__mul__,
    torch.Tensor.__rmul__,
    torch.Tensor.to,
    torch.Tensor.float,
    torch.Tensor.type_as,
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.contiguous,
}
_ACTIVATIONS = {"relu": torch.relu, "swish": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu}


@dataclass(frozen=True)
class Branch:
    layer: str  # path
    location: str


@dataclass
class ProjectionSite:
    """One residual addition met while upstream ran."""

    branch: Branch
    x: Tensor  # what came out of the sublayer
    residual: Tensor
    sum: Tensor
    norms: list[str] = field(default_factory=list)  # paths of the norms that read the sum, while it runs
    read_otherwise: bool = False


Replace = Callable[[ProjectionSite], Tensor]


class Watch(TorchFunctionMode):
    """Follows branches through a forward of upstream; `at_site` may give another value for a sum."""

    def __init__(
        self, upstream: nn.Module, layout: Layout, at_site: Callable[[ProjectionSite], Tensor | None]
    ) -> None:
        super().__init__()
        self.at_site = at_site
        self.sites: list[ProjectionSite] = []
        self._branches: dict[int, tuple[Branch, Tensor]] = {}  # holds the tensor, so that its id stays its own
        self._sums: dict[int, ProjectionSite] = {}
        self._inside_norm = 0
        self.paused = False  # while the reference itself computes
        self._handles = [*_hook_projections(self, upstream, layout), *_hook_norms(self, upstream)]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def mark(self, tensor: Tensor, branch: Branch) -> None:
        self._branches[id(tensor)] = (branch, tensor)

    def branch_of(self, value: Any) -> Branch | None:
        found = self._branches.get(id(value)) if isinstance(value, Tensor) else None
        return found[0] if found else None

    def enter_norm(self, path: str, value: Any) -> None:
        site = self._sums.get(id(value)) if isinstance(value, Tensor) else None
        if site is not None and not self._inside_norm and path.startswith(f"{site.branch.layer}."):
            site.norms.append(path)
        elif site is not None and not self._inside_norm:
            site.read_otherwise = True
        self._inside_norm += 1

    def leave_norm(self) -> None:
        self._inside_norm -= 1

    def site_of(self, value: Any) -> ProjectionSite | None:
        return self._sums.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.paused or not isinstance(result, Tensor):
            return result
        if not self._inside_norm:
            for value in args:
                if (site := self.site_of(value)) is not None:
                    site.read_otherwise = True
        branches = [self.branch_of(value) for value in args[:2]]
        if func in _ADDITIONS and len(args) == 2 and all(isinstance(value, Tensor) for value in args):
            return self._added(result, args, branches)
        if func in _PASSES and any(branches):
            self.mark(result, next(branch for branch in branches if branch))
        return result

    def _added(self, result: Tensor, args: tuple[Any, ...], branches: list[Branch | None]) -> Tensor:
        if branches[0] and branches[1]:
            if branches[0] != branches[1]:
                raise NotImplementedError("two branches are added to each other: a parallel residual")
            self.mark(result, branches[0])
        elif branches[0] or branches[1]:
            index = 0 if branches[0] else 1
            site = ProjectionSite(branches[index], args[index], args[1 - index], result)  # type: ignore[arg-type]
            self.sites.append(site)
            replaced = self.at_site(site)
            site.sum = result if replaced is None else replaced
            self._sums[id(site.sum)] = site
            return site.sum
        return result


def _hook_projections(watch: Watch, upstream: nn.Module, layout: Layout) -> Iterator[Any]:
    def marker(branch: Branch) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            watch.mark(output[0] if isinstance(output, tuple) else output, branch)

        return hook

    for layer in layout.layers:
        for path, location in outlets(layer):
            yield upstream.get_submodule(path).register_forward_hook(marker(Branch(layer.path, location)))


def outlets(layer: Layer) -> Iterator[tuple[str, str]]:
    """Paths of the modules from which a sublayer's output comes, each with the location of its bottleneck."""
    for attention in layer.attentions:
        yield attention.output or attention.core, "attention" if attention.kind == "self" else "cross_attention"
    for path in layer.mlp_last:
        yield path, "output"


def _hook_norms(watch: Watch, upstream: nn.Module) -> Iterator[Any]:
    for path, module in upstream.named_modules():
        if "norm" in type(module).__name__.lower():
            yield module.register_forward_pre_hook(lambda module, args, path=path: watch.enter_norm(path, args[0]))
            yield module.register_forward_hook(lambda module, args, output: watch.leave_norm())


def sites_of(
    upstream: nn.Module, layout: Layout, inputs: Mapping[str, Any], forward: Callable[..., Any] | None = None
) -> list[tuple[Branch, str]]:
    """The residual additions of one forward in their order, each with the path of its norm ("" = pre-norm)."""
    watch = Watch(upstream, layout, lambda site: None)
    try:
        with torch.no_grad(), watch:
            (forward or upstream)(**inputs)
    finally:
        watch.remove()
    return [
        (site.branch, "" if site.read_otherwise or len(site.norms) != 1 else site.norms[0]) for site in watch.sites
    ]


@contextlib.contextmanager
def bottlenecks_applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, Bottleneck]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """Calls of `upstream` compute the `adapters`, stacked in this order or `together`, at their residual additions."""
    hosts = {layer.path: layer.hosts for layer in layout.layers}
    plain = type(upstream).forward.__get__(upstream)

    def computed(site: ProjectionSite, norm: Callable[[Tensor], Tensor] | None) -> Tensor | None:
        here = [(name, part) for name, part in adapters if site.branch.location in part.locations]
        if not here:
            return None
        host = hosts[site.branch.layer][site.branch.location]
        present = [
            (part, Weights(weights, join(host, "adapters", name), rule_of(layout, part, name))) for name, part in here
        ]
        if isinstance(together, Fused):
            attention = Weights(weights, join(host, "adapter_fusion_layer", together.name))
            return through_fusion(site.x, site.residual, norm, present, attention)
        return through(site.x, site.residual, norm, present, together)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args or kwargs.get("past_key_values") is not None:
            raise TypeError("the reference takes keyword arguments only, and runs twice, so no cache")
        found = sites_of(upstream, layout, kwargs, plain)
        with _replaced(upstream, layout, [norm for _, norm in found], computed):
            return plain(**kwargs)

    upstream.forward = forward
    try:
        yield
    finally:
        del upstream.forward


@contextlib.contextmanager
def _replaced(
    upstream: nn.Module,
    layout: Layout,
    norms: Sequence[str],
    compute: Callable[[ProjectionSite, Callable[[Tensor], Tensor] | None], Tensor | None],
) -> Iterator[None]:
    """One forward in which `compute` says what a sum is, or, where the sum is normalised, what the norm gives."""
    waiting: dict[int, ProjectionSite] = {}

    def at_site(site: ProjectionSite) -> Tensor | None:
        if norms[len(watch.sites) - 1]:
            waiting[id(site.sum)] = site
            return None
        return compute(site, None)

    def at_norm(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        site = waiting.pop(id(inputs[0]), None)
        if site is None:
            return None
        watch.paused = True
        try:
            return compute(site, type(module).forward.__get__(module))
        finally:
            watch.paused = False

    watch = Watch(upstream, layout, at_site)
    handles = [upstream.get_submodule(path).register_forward_hook(at_norm) for path in set(norms) if path]
    try:
        with watch:
            yield
    finally:
        watch.remove()
        for handle in handles:
            handle.remove()


def rule_of(layout: Layout, part: Bottleneck, name: str) -> str:
    """The name under which a checkpoint stores the rule of hypercomplex layers; "" where there are none."""
    return join(layout.base, f"shared_parameters.{name}.phm_rule") if part.hypercomplex else ""


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


def through(x: Tensor, residual: Tensor, norm: Norm, adapters: Placed, together: Averaged | None = None) -> Tensor:
    """The value of a residual site under bottlenecks that run one after the other, each on what the one before gave.

    The result joins the stream: it is added to it, and normalised where upstream does so.
    """
    if together is not None:
        x = together.of([x + _update(part, weights, _seen(part, x, residual, norm)) for part, weights in adapters])
    else:
        for part, weights in adapters:
            x = x + _update(part, weights, _seen(part, x, residual, norm))
    return _joined(x, residual, norm)


def through_fusion(x: Tensor, residual: Tensor, norm: Norm, adapters: Placed, attention: Weights) -> Tensor:
    """All adapters see what the last one does; what they add is mixed by an attention whose query is what they see."""
    seen = _seen(adapters[-1][0], x, residual, norm)
    values = torch.stack([_update(part, weights, seen) for part, weights in adapters], dim=-2)  # (B, L, N, H)
    query, keys = attention.linear("query", seen), attention.linear("key", values)
    shares = (query[..., None, :] * keys).sum(-1).softmax(-1)
    mixture = (shares[..., None] * values).sum(-2)
    return _joined(x + mixture @ attention.all[f"{attention.prefix}.value.weight"].T, residual, norm)


def _seen(part: Bottleneck, x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
    """What a bottleneck reads."""
    if part.parallel:
        return residual
    return _joined(x, residual, norm) if part.norm_first else x


def _update(part: Bottleneck, weights: Weights, seen: Tensor) -> Tensor:
    """What a bottleneck adds."""
    hidden = _ACTIVATIONS[part.activation](weights.linear("adapter_down.0", seen))
    return part.scaling * weights.linear("adapter_up", hidden)


def _joined(x: Tensor, residual: Tensor, norm: Norm) -> Tensor:
    return x + residual if norm is None else norm(x + residual)
