"""Attention cores of an untouched model, seen while it runs: where queries meet keys, and what is done with the scores.

A product whose result reaches a softmax is one of queries and keys, wherever it is written: in upstream's eager attention function or in the
module's own forward. What the softmax gives meets the values in a second product. No name of a class or of a variable is asked.

Letters of shapes: B batch, H heads, K key heads, P prefix, L queries, S keys, D width of a head.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conformance.outputs import seeded
from conformance.reference.calls import Calls

ROLES = ("query", "key", "value")
_PRODUCTS = {torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm}
_SUM_PRODUCTS = {torch.baddbmm, torch.Tensor.baddbmm}
_WRITTEN_SUMS = {torch.einsum, torch.functional.einsum}  # the sum over two tensors that a string describes
# What shows nothing of itself: queries, keys and values come first. Those of nn.MultiheadAttention are not projected yet.
_ATTENDING = {torch.nn.functional.scaled_dot_product_attention, torch.nn.functional.multi_head_attention_forward}
_SOFTMAX = {torch.softmax, torch.nn.functional.softmax, torch.Tensor.softmax}
_LOG_SUMS = {torch.logsumexp, torch.Tensor.logsumexp}  # what a softmax divides by, where a model also wants it alone
_SHIFTS = {torch.sub, torch.Tensor.sub, torch.Tensor.__sub__, torch.Tensor.sub_, torch.Tensor.__isub__}
_SCALED = {
    torch.mul: lambda x, by: x * by,
    torch.Tensor.mul: lambda x, by: x * by,
    torch.Tensor.__mul__: lambda x, by: x * by,
    torch.Tensor.__rmul__: lambda x, by: x * by,
    torch.Tensor.__imul__: lambda x, by: x * by,
    torch.Tensor.mul_: lambda x, by: x * by,
    torch.Tensor.div_: lambda x, by: x / by,
    torch.div: lambda x, by: x / by,
    torch.Tensor.div: lambda x, by: x / by,
    torch.Tensor.__truediv__: lambda x, by: x / by,
    torch.Tensor.__itruediv__: lambda x, by: x / by,
}
_TURNED = {torch.transpose, torch.Tensor.transpose, torch.Tensor.swapaxes}
_BENT = {torch.tanh, torch.Tensor.tanh}
# Scores stay scores through these: what they add or hide has no entry for a prefix.
_PASSES = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
    torch.Tensor.add_,
    torch.Tensor.masked_fill,
    torch.Tensor.masked_fill_,
    torch.masked_fill,
    torch.where,
    torch.max,
    torch.maximum,
    torch.cat,
    torch.nn.functional.dropout,
    torch.Tensor.to,
    torch.Tensor.float,
    torch.Tensor.type,
    torch.Tensor.type_as,
    torch.Tensor.view,
    torch.Tensor.reshape,
    torch.Tensor.contiguous,
    torch.Tensor.unsqueeze,
    torch.Tensor.squeeze,
    torch.Tensor.__getitem__,
    torch.Tensor.clamp,
    torch.clamp,
}
# Scores stay scores through these too, but their keys no longer stand in a row in which a prefix could have the first places.
_MOVES = {
    torch.nn.functional.pad,
    torch.transpose,
    torch.Tensor.transpose,
    torch.Tensor.permute,
    torch.Tensor.flatten,
    torch.Tensor.as_strided,
    torch.Tensor.where,
}


_Change = Callable[[Tensor], Tensor]


@dataclass
class Scores:
    """A product of queries and keys on its way to the softmax."""

    query: Tensor  # (B, H, L, D) or (B * H, L, D)
    key: Tensor  # (..., D, S)
    bent: list[_Change] = field(default_factory=list)  # what was done to it, but for sums and masks
    core: str = ""
    takes_prefix: bool = True  # it is laid out as the shapes above say
    prefix: Tensor | None = None  # (..., L, P): what the softmax gave to a prefix


Seen = Mapping[str, Tensor]  # "query", "key", "value"; where values are sampled (deformable attention), these only


def only_mixes(seen: Seen) -> bool:
    """Whether the same queries, whatever the input is, weigh states that are keys and values at once: how states are added up."""
    if seen.keys() != set(ROLES) or seen["query"].dim() < 3:
        return False
    queries = seen["query"].flatten(0, -3)
    same_for_all = len(queries) > 1 and bool((queries == queries[:1]).all())
    return same_for_all and torch.equal(seen["key"], seen["value"])


# Prefixes of a core, (1, K, P, D) each, in their order.
Prefixes = Mapping[str, Sequence[tuple[Tensor, Tensor]]]


class CoreWatch(TorchFunctionMode):
    """Sees the cores of a forward; those with prefixes also attend to them.

    Args:
        declared: paths of cores; a softmax below one of them is its own.
    """

    def __init__(self, upstream: nn.Module, declared: Sequence[str], prefixes: Prefixes | None = None) -> None:
        super().__init__()
        self.declared = sorted(declared, key=len, reverse=True)
        self.prefixes = prefixes or {}
        self.seen: dict[str, list[Seen]] = {}
        self.served: set[str] = set()  # cores whose prefixes were attended to
        self._scores: dict[int, tuple[Scores, Tensor]] = {}  # holds the tensors, so that their ids stay their own
        self._shares: dict[int, tuple[Scores, Tensor]] = {}
        self._turned: dict[int, tuple[list[_Change], Tensor]] = (
            {}
        )  # and what they were scaled by, as the scores then are
        self._paths: list[str] = []
        self._begun: Counter[str] = Counter()
        self._calls = Calls(upstream, self._enter, self._leave)

    def remove(self) -> None:
        self._calls.remove()

    def has_run(self, core: str) -> bool:
        """Whether a core, or anything in it, was called: not that of a model inside that only generates (SeamlessM4T)."""
        return any(path == core or path.startswith(f"{core}.") for path in self._begun)

    def _enter(self, path: str) -> None:
        if not path:
            self._scores, self._shares, self._turned, self._paths = {}, {}, {}, []
        self._paths.append(path)
        self._begun[path] += 1

    def _leave(self) -> None:
        self._paths.pop()

    def _core(self) -> str:
        path = self._paths[-1] if self._paths else ""
        return next((core for core in self.declared if path == core or path.startswith(f"{core}.")), path)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS and len(args) == 2:
            return self._product(func, args, kwargs)
        result = func(*args, **kwargs)
        if func in _ATTENDING:
            self._see(self._core(), *(*args[:3], *(kwargs[name] for name in ROLES if name in kwargs)))
        elif func in _WRITTEN_SUMS:
            self._summed(args, result)
        elif func is torch.nn.functional.grid_sample and self._core() in self.declared:  # elsewhere it resizes images
            self._record(self._core(), {"value": args[0]})
        elif func is torch.Tensor.__setitem__:
            self._put(args[0], args[2])
        elif func in _SUM_PRODUCTS:
            alpha = kwargs.get("alpha", 1)
            query, key = (*args[1:3], *(kwargs[name] for name in ("batch1", "batch2") if name in kwargs))
            self._keep(self._scores, result, Scores(query, key, [lambda x: x * alpha]))
        elif isinstance(result, Tensor):
            return self._passed(func, args, kwargs, result)
        return result

    def _keep(self, where: dict[int, Any], tensor: Tensor, what: Scores) -> None:
        where[id(tensor)] = (what, tensor)

    def _marked(self, where: dict[int, Any], args: Sequence[Any]) -> Scores | None:
        for value in args:
            if isinstance(value, (tuple, list)):
                found = self._marked(where, value)
                if found is not None:
                    return found
            elif id(value) in where:
                return where[id(value)][0]
        return None

    def _passed(self, func: Any, args: Sequence[Any], kwargs: Any, result: Tensor) -> Tensor:
        shares = self._marked(self._shares, args[:1])
        if shares is not None and func in _PASSES | _SCALED.keys():
            self._keep(self._shares, result, shares)
            return result
        if shares is not None and func in _MOVES:
            self._keep(self._shares, result, replace(shares, prefix=None))
            return result
        scores = self._marked(self._scores, args)
        if scores is None:
            self._turn(func, args, result)
            return result
        if func in _MOVES:
            self._keep(self._scores, result, replace(scores, takes_prefix=False))
            return result
        if func in _SOFTMAX:
            return self._softmax(func, args, kwargs, result, scores)
        if func in _LOG_SUMS and scores.takes_prefix and self._core() in self.prefixes:
            return func(torch.cat([self._prefix_scores(args[0], scores), args[0]], -1), *args[1:], **kwargs)
        change: _Change | None = None
        if func in _SHIFTS:
            by = args[1]
            # One number for all keys, their largest score: it is taken from those of a prefix, too.
            if isinstance(by, Tensor) and by.dim() > 0 and by.shape[-1] == 1:
                change = functools.partial(_shifted, by=by)
        elif func in _SCALED:
            by = next((value for value in args[:2] if id(value) not in self._scores), 1.0)
            if isinstance(by, Tensor) and by.numel() > 1 and by.dim() > 2 and by.shape[-1] == result.shape[-1]:
                by = 1.0  # a mask by multiplication
            change = functools.partial(_SCALED[func], by=by)
        elif func in _BENT:
            change = torch.tanh
        elif func not in _PASSES:
            return result
        bent = [*scores.bent, change] if change is not None else scores.bent
        self._keep(self._scores, result, replace(scores, bent=bent))
        return result

    def _softmax(self, func: Any, args: Sequence[Any], kwargs: Any, result: Tensor, scores: Scores) -> Tensor:
        core = self._core()
        found = Scores(scores.query, scores.key, scores.bent, core)
        if core in self.prefixes and scores.takes_prefix:
            extra = self._prefix_scores(args[0], scores)
            whole = func(torch.cat([extra, args[0]], -1), *args[1:], **kwargs)
            found.prefix, result = whole.tensor_split([extra.shape[-1]], dim=-1)
        self._keep(self._shares, result, found)
        return result

    def _prefix_scores(self, of_keys: Tensor, scores: Scores) -> Tensor:
        """(..., L, P): the scores of the prefixes, beside those `of_keys` (..., L, S)."""
        keys = torch.cat([key for key, _ in self.prefixes[self._core()]], dim=2)
        extra = scores.query @ _fitted(keys, scores.query).transpose(-1, -2)
        for change in scores.bent:
            extra = change(extra)
        if extra.dim() == of_keys.dim() and len(extra) == 1:  # one row of queries meets the keys of all rows
            extra = extra.expand(len(of_keys), *extra.shape[1:])
        return extra.to(of_keys.dtype).reshape(*of_keys.shape[:-1], -1)

    def _product(self, func: Any, args: Sequence[Any], kwargs: Any) -> Tensor:
        result = func(*args, **kwargs)
        shares = self._marked(self._shares, args[:1])
        if shares is None:
            changes, _ = self._turned.get(id(args[1]), ([], None))
            self._keep(self._scores, result, Scores(args[0], args[1], changes))
            return result
        self._see(shares.core, shares.query, shares.key, args[1])
        if shares.prefix is not None:
            values = torch.cat([value for _, value in self.prefixes[shares.core]], dim=2)
            weights = shares.prefix.reshape(*args[0].shape[:-1], -1).to(args[1].dtype)
            result = result + weights @ _fitted(values, args[0])
            self.served.add(shares.core)
        return result

    def _turn(self, func: Any, args: Sequence[Any], result: Tensor) -> None:
        """Keys may be scaled when they are turned, and so when a prefix stands in front of them already (DeBERTa-v2)."""
        if func in _TURNED:
            self._turned[id(result)] = ([], result)
        elif func in _SCALED and id(args[0]) in self._turned:
            by = args[1]
            if not isinstance(by, Tensor) or by.numel() == 1:
                changes, _ = self._turned[id(args[0])]
                self._turned[id(result)] = ([*changes, functools.partial(_SCALED[func], by=by)], result)

    def _put(self, whole: Tensor, part: Any) -> None:
        """A window of scores is written into a larger tensor."""
        scores = self._marked(self._scores, [part])
        if scores is not None:
            self._keep(self._scores, whole, replace(scores, takes_prefix=False))

    def _summed(self, args: Sequence[Any], result: Tensor) -> None:
        """A product by einsum: in whatever layout, so that no prefix is put in front. One with a weight projects."""
        operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        if len(operands) != 2 or any(isinstance(operand, nn.Parameter) for operand in operands):
            return
        shares = self._marked(self._shares, operands)
        if shares is None:
            self._keep(self._scores, result, Scores(*operands, takes_prefix=False))
        else:
            values = [operand for operand in operands if id(operand) not in self._shares]
            self._see(shares.core, shares.query, shares.key, (values or operands)[-1])

    def _see(self, core: str, query: Tensor, key: Tensor, value: Tensor) -> None:
        self._record(core, {"query": query, "key": key, "value": value})

    def _record(self, core: str, seen: Seen) -> None:
        # A core that runs several times (ALBERT) counts when it first does: later it also sees what it did before.
        if self._begun[core] <= 1:
            self.seen.setdefault(core, []).append(seen)


def _shifted(scores: Tensor, by: Tensor) -> Tensor:
    return scores - by


def _fitted(states: Tensor, like: Tensor) -> Tensor:
    """(1, K, P, D) as (B, H, P, D) or (B * H, P, D), as `like` is."""
    _, heads, length, width = states.shape
    if like.dim() == 4:
        groups = like.shape[1] // heads
        return states.repeat_interleave(groups, dim=1).expand(like.shape[0], -1, -1, -1)
    if like.dim() == 3 and like.shape[0] % heads == 0:
        return states.expand(like.shape[0] // heads, -1, -1, -1).reshape(-1, length, width)
    raise NotImplementedError(f"queries of shape {tuple(like.shape)} for {heads} heads")


def observed(upstream: nn.Module, declared: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, list[Seen]]:
    """Queries, keys and values of one forward, as they arrive at each core (by path): a module may attend more than once.

    Equal in each call, also where a model draws random numbers (ViT-MAE hides other patches each time).
    """
    watch = CoreWatch(upstream, declared)
    try:
        with torch.no_grad(), seeded(5), watch:
            upstream(**inputs)
    finally:
        watch.remove()
    return watch.seen
