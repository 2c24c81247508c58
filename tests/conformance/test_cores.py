"""A prefix put into attentions that are written out in several ways is what longer keys and values would be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from conformance.handmade import random
from conformance.reference.cores import CoreWatch

QUERY, KEY, VALUE = (random(2, 4, 6, 8, seed=seed) * 4 for seed in range(3))  # (B, H, L, D)
PREFIX = random(1, 4, 3, 8, seed=3) * 4, random(1, 4, 3, 8, seed=4)  # (1, H, P, D)
SINKS = torch.tensor([0.5, -1.0, 2.0, 0.0]).view(1, -1, 1, 1)


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(2, 3) * 0.3, dim=-1) @ value


def _with_a_sink(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One more score per head, and all are counted from the largest."""
    scores = torch.matmul(query, key.transpose(2, 3)) * 0.3
    scores = torch.cat([scores, SINKS.expand(len(scores), -1, scores.shape[2], -1)], dim=-1)
    scores = scores - scores.max(dim=-1, keepdim=True).values
    return torch.matmul(torch.softmax(scores, dim=-1)[..., :-1], value)


def _with_a_sink_behind_the_softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = torch.matmul(query, key.transpose(2, 3)) * 0.3
    share = torch.sigmoid(torch.logsumexp(scores, dim=-1, keepdim=True) - SINKS)
    return torch.matmul(torch.softmax(scores, dim=-1), value) * share


def _with_other_scores_subtracted(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A number per key is what hides tokens, and says nothing of a prefix."""
    scores = torch.matmul(query, key.transpose(2, 3)) * 0.3
    hidden = torch.zeros(scores.shape[-1])
    hidden[-1] = 1e9
    return torch.matmul(torch.softmax(scores - hidden, dim=-1), value)


class _Core(nn.Module):
    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.core = nn.Module()
        self.core.forward = attend

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.core(query, key, value)


@pytest.mark.parametrize(
    "attend", [_plain, _with_a_sink, _with_a_sink_behind_the_softmax, _with_other_scores_subtracted]
)
def test_prefix_is_longer_keys_and_values(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    model = _Core(attend)
    watch = CoreWatch(model, ["core"], {"core": [PREFIX]})
    try:
        with watch:
            found = model(QUERY, KEY, VALUE)
    finally:
        watch.remove()
    longer = (
        torch.cat([prefix.expand(2, -1, -1, -1), x], dim=2) for prefix, x in zip(PREFIX, (KEY, VALUE), strict=True)
    )
    assert watch.served == {"core"}
    torch.testing.assert_close(found, attend(QUERY, *longer))
    assert not torch.allclose(found, attend(QUERY, KEY, VALUE), atol=1e-2)


def test_a_core_that_runs_without_a_softmax_is_told_from_one_that_does_not_run() -> None:
    model = _Core(lambda query, key, value: value)
    model.beside = _Core(_plain)
    watch = CoreWatch(model, ["core", "beside.core"], {"core": [PREFIX], "beside.core": [PREFIX]})
    try:
        with watch:
            model(QUERY, KEY, VALUE)
    finally:
        watch.remove()
    assert not watch.served
    assert watch.has_run("core") and not watch.has_run("beside.core")
