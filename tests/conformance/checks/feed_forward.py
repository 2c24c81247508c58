"""The projections that are declared as those of a feed-forward block are the projections of one, seen on upstream.

One forward of the untouched model is recorded by autograd, and its graph is walked. What each declared last projection reads must have
come out of a first one, through an activation (of the gate, where it has one), through no attention, convolution, or tensor that the
layer is given beside its stream. What it gives must be added, as it is or normed and scaled, to what the block started from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conformance.outputs import seeded
from conformance.reference.layout import Layer, Layout

Node = Any  # of autograd's graph

# How the names of autograd's nodes begin, in small letters. (Functions with a gradient of their own are named by their class: Bloom's.)
_ACTIVATIONS = (
    *("gelu", "silu", "relu", "threshold", "sigmoid", "tanh", "softplus", "leakyrelu", "elu", "mish", "glu"),
    *("hardtanh", "hardsigmoid", "hardswish", "erf", "logsigmoid", "celu", "selu", "prelu", "expm1"),
)
_PROJECTIONS = ("addmm", "mm", "bmm", "baddbmm", "convolution", "embedding", "dot", "mv")
_MOVES = (
    "tbackward",
    "transpose",
    "view",
    "unsafeview",
    "reshapealias",
    "expand",
    "permute",
    "unsqueeze",
    "tocopy",
    "clone",
    "select",
)
_MIXING = ("convolution", "cumsum", "fft", "scaleddotproduct")


def assert_feeds_forward(upstream: nn.Module, layout: Layout, inputs: dict[str, Any]) -> None:
    """What the layout declares as first, gate and last projections plays these roles in each call of each layer."""
    with _recorded(upstream, layout) as found, torch.enable_grad(), seeded(5):
        upstream(**inputs)
    problems = [problem for run in found for problem in _Block.problems_of(run)]
    if problems:
        raise AssertionError("; ".join(dict.fromkeys(problems)))


@dataclass
class _Run:
    """One call of a layer."""

    layer: Layer
    given: list[Node] = field(default_factory=list)  # what it is given beside its stream
    calls: list[tuple[str, Node, Node]] = field(default_factory=list)  # path, what a projection reads, what it gives
    returned: list[Node] = field(default_factory=list)

    def of(self, paths: Iterable[str]) -> list[tuple[str, Node, Node]]:
        return [call for call in self.calls if call[0] in paths]


@contextlib.contextmanager
def _recorded(upstream: nn.Module, layout: Layout) -> Iterator[list[_Run]]:
    """The calls of layers while upstream runs; each layer starts a graph of its own."""
    done, running = list[_Run](), list[_Run]()
    handles = []

    def entered(layer: Layer) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            running.append(_Run(layer))
            fresh = [_fresh(value) for value in args]
            named = {name: _fresh(value) for name, value in kwargs.items()}
            tensors = [value for value in (*fresh, *named.values()) if isinstance(value, Tensor)]
            running[-1].given = [value.grad_fn for value in tensors[1:] if value.grad_fn is not None]
            return tuple(fresh), named

        return hook

    def left(module: nn.Module, args: Any, output: Any) -> None:
        run = running.pop()
        run.returned = [tensor.grad_fn for tensor in _tensors(output) if tensor.grad_fn is not None]
        done.append(run)

    def projected(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if running and torch.is_grad_enabled():  # upstream may iterate without gradients first (HRM)
                running[-1].calls.append((path, args[0].grad_fn, output.grad_fn))

        return hook

    for layer in layout.layers:
        module = upstream.get_submodule(layer.path)
        handles += [module.register_forward_pre_hook(entered(layer), with_kwargs=True, prepend=True)]
        handles += [module.register_forward_hook(left)]
        for path in {*layer.mlp_first, *layer.mlp_gate, *layer.mlp_last, *_attending(layer)}:
            handles.append(upstream.get_submodule(path).register_forward_hook(projected(path)))
    upstream.requires_grad_(True)
    try:
        yield done
    finally:
        upstream.requires_grad_(False)
        for handle in handles:
            handle.remove()


def _fresh(value: Any) -> Any:
    """A tensor that the graph of a layer starts from."""
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().requires_grad_(True).clone() if is_real else value


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _tensors(one)
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))


def _attending(layer: Layer) -> set[str]:
    """The projections of its attentions."""
    roles = ((one.query, one.key, one.value, one.fused, one.output) for one in layer.attentions)
    return {path for paths in roles for path in paths if path}


class _Block:
    """One call of a last projection."""

    def __init__(self, run: _Run, path: str, reads: Node, gives: Node) -> None:
        self._path = path
        self._gives = gives
        self._run = run
        firsts = {call[2]: call for call in run.of(run.layer.mlp_first)}
        gates = {call[2]: call for call in run.of(run.layer.mlp_gate)}
        ends = {node for _, _, node in run.calls if node is not gives}
        self._between = _walked(reads, ends)
        self.first = [firsts[node] for node in self._between if node in firsts]
        self.gate = [gates[node] for node in self._between if node in gates]

    @staticmethod
    def problems_of(run: _Run) -> Iterator[str]:
        blocks = [_Block(run, *call) for call in run.of(run.layer.mlp_last) if call[1] is not None]
        plain = [block for block in blocks if not block.impurity]
        for block in blocks:
            yield from block.problems()
            if plain and block.impurity:
                yield f"{block._path} is declared as last projection of a feed-forward block, but {block.impurity}"
        fed = {path for block in blocks for path, _, _ in (*block.first, *block.gate)}
        for path, _, _ in run.of((*run.layer.mlp_first, *run.layer.mlp_gate)):
            if path not in fed:
                yield f"{path} is declared as first projection or gate of a feed-forward block, but feeds no last one"

    def problems(self) -> Iterator[str]:
        said = f"{self._path} is declared as last projection of a feed-forward block, but"
        if not self.first:
            yield f"{said} reads nothing of a first one"
            return
        for path, _, node in self.gate:
            if not self._is_activated(node):
                yield f"{path} is declared as gate, but no activation lies between it and {self._path}"
        for path, _, node in self.first:
            if self._is_activated(node) == bool(self.gate):
                between = "an activation lies" if self.gate else "no activation lies"
                yield f"{path} is declared as first projection, but {between} between it and {self._path}"
        if not self._is_added():
            yield f"{said} what it gives is not added to what its block started from"

    @property
    def impurity(self) -> str:
        """What else stands in the block. Where a layer has no other block, it is the feed-forward block all the same."""
        on_the_way = self._on_the_way([node for _, _, node in (*self.first, *self.gate)])
        if any(_is_one(node, _MIXING) for node in on_the_way):
            return "positions are mixed before it"
        behind = {node for _, reads, _ in self.first if reads is not None for node in _walked(reads, ())}
        if any(node in self._between and node not in behind for node in self._run.given):
            return "what the layer is given beside its stream stands before it"
        return ""

    def _is_activated(self, first: Node) -> bool:
        return any(_is_one(node, _ACTIVATIONS) for node in self._on_the_way([first]))

    def _on_the_way(self, starts: Sequence[Node]) -> set[Node]:
        """What is computed from one of `starts`, up to the last projection."""
        return _computed_from(starts, self._between) - set(starts)

    def _is_added(self) -> bool:
        """Whether it is added to something of the stream that the block read."""
        everything = {node: None for returned in self._run.returned for node in _walked(returned, ())}
        carried = _carried_on(self._gives, everything)
        stream = {node for _, reads, _ in self.first if reads is not None for node in _kept(reads)}
        for node in carried:
            if _is_one(node, ("add", "sub")) and not _is_one(node, _PROJECTIONS):
                others = [one for one, _ in node.next_functions if one is not None and one not in carried]
                if any(not stream.isdisjoint(_kept(other)) for other in others):
                    return True
        return False


def _walked(start: Node, ends: Iterable[Node]) -> dict[Node, None]:
    """`start` and all that it is computed from, but nothing behind `ends`. (The nodes are kept, so that each stays one object.)"""
    ends = set(ends)
    found: dict[Node, None] = {}
    todo = [start]
    while todo:
        node = todo.pop()
        if node is None or node in found:
            continue
        found[node] = None
        if node not in ends:
            todo += [one for one, _ in node.next_functions]
    return found


def _kept(start: Node) -> set[Node]:
    """`start` and what it is: not what was projected or activated to make it."""
    found: set[Node] = set()
    todo = [start]
    while todo:
        node = todo.pop()
        if node is None or node in found or node.name().endswith("AccumulateGrad"):
            continue
        found.add(node)
        if _mixes_streams(node) or not _is_one(node, (*_PROJECTIONS, *_ACTIVATIONS, "softmax")):
            todo += [one for one, _ in node.next_functions]
    return found


def _mixes_streams(node: Node) -> bool:
    """A product of no weight: several streams, mixed by a matrix that was made of them (hyper-connections)."""
    return _is_one(node, ("bmm",)) and not any(map(_is_weight, (one for one, _ in node.next_functions)))


def _is_weight(node: Node) -> bool:
    while node is not None and _is_one(node, _MOVES):
        node = node.next_functions[0][0]
    return node is not None and node.name().endswith("AccumulateGrad")


def _computed_from(starts: Iterable[Node], among: Iterable[Node]) -> set[Node]:
    users: dict[Node, list[Node]] = {}
    for node in among:
        for one, _ in node.next_functions:
            users.setdefault(one, []).append(node)
    found, todo = set[Node](), list(starts)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += users.get(node, [])
    return found


def _carried_on(gives: Node, among: Iterable[Node]) -> set[Node]:
    """What is made of `gives` alone: normed, scaled, moved, added to."""
    plain = [node for node in among if not _is_one(node, (*_PROJECTIONS, *_ACTIVATIONS, "softmax"))]
    return _computed_from([gives], plain)


def _is_one(node: Node, names: Sequence[str]) -> bool:
    return node.name().lower().startswith(tuple(names))
