"""Which projection feeds queries, keys or values is seen on upstream; choosing among queries is not feeding them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from conformance.checks.parts import assert_parts
from conformance.checks.roles import assert_feeds
from conformance.reference.layout import Attention

WIDTH = 4


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.asked(self.q(x), self.k(x))
        return torch.softmax(query @ key.transpose(-1, -2), dim=-1) @ self.v(x)

    def asked(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return query, key


class _Chosen(_Plain):
    """Only the queries ask that some drawn keys fit best (ProbSparse attention)."""

    def asked(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        drawn = key[:, torch.randint(0, key.shape[1], (2,))]
        best = (query @ drawn.transpose(-1, -2)).amax(-1).topk(3).indices
        return query.gather(1, best[..., None].expand(-1, -1, WIDTH)), key


class _Mixed(_Plain):
    """Keys are part of the queries."""

    def asked(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return query + key, key


class _ChosenAndMixed(_Chosen):
    def asked(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return super().asked(query + key, key)


class _KeysAreValues(_Plain):
    def forward(self, x: Tensor) -> Tensor:
        key = self.k(x)
        return torch.softmax(self.q(x) @ key.transpose(-1, -2), dim=-1) @ key


def _feeds(model: type[nn.Module], lacks_value: bool = False, **roles: str) -> None:
    torch.manual_seed(0)
    paths = {"query": "core.q", "key": "core.k", "value": "core.v", **roles}
    upstream = nn.Module()
    upstream.core = model()
    upstream.forward = lambda x: upstream.core(x)
    attention = Attention("", "core", "self", **paths, fused="", output="", in_encoder=False, lacks_value=lacks_value)
    for role in ("query", "key", "value"):
        assert_feeds(upstream.requires_grad_(False), attention, role, {"x": torch.randn(2, 8, WIDTH)})


@pytest.mark.parametrize("model", [_Plain, _Chosen])
def test_each_projection_feeds_its_role(model: type[nn.Module]) -> None:
    _feeds(model)


def test_a_projection_whose_weight_an_earlier_layer_has_too_is_changed_in_its_own() -> None:
    torch.manual_seed(0)
    upstream = nn.Module()
    upstream.first, upstream.core = _Plain(), _Plain()
    upstream.core.q.weight = upstream.first.q.weight
    upstream.forward = lambda x: upstream.core(upstream.first(x))
    roles = {"query": "core.q", "key": "core.k", "value": "core.v"}
    attention = Attention("", "core", "self", **roles, fused="", output="", in_encoder=False)
    assert_feeds(upstream.requires_grad_(False), attention, "query", {"x": torch.randn(2, 8, WIDTH)})
    assert upstream.core.q.weight is upstream.first.q.weight


@pytest.mark.parametrize("model", [_Mixed, _ChosenAndMixed])
def test_keys_that_are_part_of_queries_are_found(model: type[nn.Module]) -> None:
    with pytest.raises(AssertionError, match=r"core\.k is declared as key, but feeds .*key.*query"):
        _feeds(model)


@pytest.mark.parametrize("model", [_Plain, _Chosen])
def test_projections_in_each_others_place_are_found(model: type[nn.Module]) -> None:
    with pytest.raises(AssertionError, match=r"core\.k is declared as query"):
        _feeds(model, query="core.k", key="core.q")


def test_keys_that_are_values_too_are_found_where_no_value_is_lacking() -> None:
    _feeds(_KeysAreValues, lacks_value=True, value="")
    with pytest.raises(AssertionError, match=r"core\.k is declared as key, but feeds .*key.*value"):
        _feeds(_KeysAreValues, value="")
    with pytest.raises(AssertionError, match=r"core\.k is declared as key, but feeds .*key"):
        _feeds(_Plain, lacks_value=True, value="")


# Which outputs of a fused projection are which ----------------------------------------------------------------------------

HEADS = 2
BLOCKS = {"query": [0, 1, 2, 3], "key": [4, 5, 6, 7], "value": [8, 9, 10, 11]}
PER_HEAD = {"query": [0, 1, 6, 7], "key": [2, 3, 8, 9], "value": [4, 5, 10, 11]}
GROUPED = {"query": [0, 1, 2, 3], "key": [4, 5], "value": [6, 7]}


class _Fused(nn.Module):
    """All queries, all keys, all values."""

    def __init__(self, outputs: int = 3 * WIDTH) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.parts(self.qkv(x))
        return torch.softmax(self.turned(query) @ self.turned(key).transpose(-1, -2), dim=-1) @ value

    def parts(self, output: Tensor) -> Sequence[Tensor]:
        return [part.view(*part.shape[:2], HEADS, -1).transpose(1, 2) for part in output.chunk(3, dim=-1)]

    def turned(self, part: Tensor) -> Tensor:
        """As by a rotary embedding, and a norm: each head is mixed with itself."""
        halves = part.chunk(2, dim=-1)
        return nn.functional.normalize(part * 0.8 + torch.cat([-halves[1], halves[0]], dim=-1) * 0.6, dim=-1)


class _PerHead(_Fused):
    def parts(self, output: Tensor) -> Sequence[Tensor]:
        return output.view(*output.shape[:2], HEADS, -1).transpose(1, 2).chunk(3, dim=-1)


class _Clipped(_PerHead):
    def parts(self, output: Tensor) -> Sequence[Tensor]:
        return super().parts(output.clamp_(min=-100))


class _SharedKeys(_Fused):
    """One key and value for both heads of queries."""

    def __init__(self) -> None:
        super().__init__(8)

    def parts(self, output: Tensor) -> Sequence[Tensor]:
        heads = output.view(*output.shape[:2], HEADS + 2, -1).transpose(1, 2)
        return heads[:, :HEADS], heads[:, HEADS : HEADS + 1], heads[:, HEADS + 1 :]


def _parts(model: type[_Fused], declared: dict[str, list[int]]) -> None:
    torch.manual_seed(0)
    upstream = nn.Module()
    upstream.core = model()
    upstream.forward = lambda x: upstream.core(x)
    order = [output for role in ("query", "key", "value") for output in declared[role]]
    stops = list(itertools.accumulate(len(declared[role]) for role in ("query", "key", "value")))
    spans = dict(zip(("query", "key", "value"), itertools.pairwise([0, *stops]), strict=True))
    paths = {"query": "", "key": "", "value": "", "fused": "core.qkv", "output": ""}
    attention = Attention("", "core", "self", **paths, in_encoder=False, spans=spans, order=tuple(order))
    assert_parts(upstream.requires_grad_(False), attention, {"x": torch.randn(2, 8, WIDTH)})


@pytest.mark.parametrize(
    ("model", "declared"),
    [(_Fused, BLOCKS), (_PerHead, PER_HEAD), (_Clipped, PER_HEAD), (_SharedKeys, GROUPED)],
)
def test_parts_are_those_that_arrive(model: type[_Fused], declared: dict[str, list[int]]) -> None:
    _parts(model, declared)


@pytest.mark.parametrize(
    ("model", "declared"),
    [
        pytest.param(_Fused, PER_HEAD, id="blocks that are declared per head"),
        pytest.param(_PerHead, BLOCKS, id="heads that are declared as blocks"),
        pytest.param(_Fused, {**BLOCKS, "key": BLOCKS["value"], "value": BLOCKS["key"]}, id="values before keys"),
        pytest.param(_PerHead, {**PER_HEAD, "query": PER_HEAD["key"], "key": PER_HEAD["query"]}, id="keys first"),
        pytest.param(_SharedKeys, {**GROUPED, "query": [0, 1, 4, 5], "key": [2, 3]}, id="another grouping"),
        pytest.param(_Fused, {**BLOCKS, "value": [8, 9, 10]}, id="one is left out"),
    ],
)
def test_parts_that_are_declared_otherwise_are_found(model: type[_Fused], declared: dict[str, list[int]]) -> None:
    with pytest.raises(AssertionError, match=r"core\.qkv: as (query|key|value) arrive outputs"):
        _parts(model, declared)
