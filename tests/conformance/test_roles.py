"""Which projection feeds queries, keys or values is seen on upstream; choosing among queries is not feeding them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

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
