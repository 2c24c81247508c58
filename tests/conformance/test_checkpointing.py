"""Which run in training is one without a dropped layer, and which of upstream's classes train with a reentrant checkpoint."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from conformance.checks import checkpointing
from conformance.checks.checkpointing import few_recomputed, first_that_runs, upstream_trains_reentrant
from conformance.subjects import Subject

WANTED, LAYERS = {"layer 0", "layer 1", "expert a"}, {"layer 0", "layer 1", "layer that never runs"}


@pytest.mark.parametrize(
    ("ran", "first"),
    [
        pytest.param([WANTED], 0, id="all of it"),
        pytest.param([{"layer 0", "expert a"}, WANTED], 1, id="a layer is dropped in the first"),
        pytest.param([{"layer 0", "layer 1", "expert b"}, WANTED], 1, id="another expert, until all of it runs"),
        pytest.param([{"layer 0", "expert a"}, {"layer 0", "layer 1", "expert b"}], 1, id="never the same experts"),
        pytest.param([{"expert a"}, {"layer 1", "expert a"}], 0, id="a layer is dropped in each"),
    ],
)
def test_the_first_run_that_drops_no_layer(ran: list[set[str]], first: int) -> None:
    assert first_that_runs(ran, WANTED, LAYERS) == first


class _Upstream(nn.Module):
    """Two layers, of which the second gets what the first made: returned, or left in a dictionary."""

    def __init__(self, leaves: bool) -> None:
        super().__init__()
        self.first, self.second, self.leaves = nn.Linear(4, 4), nn.Linear(4, 4), leaves

    def activation_checkpointing_enable(self, options: dict[str, bool]) -> None:
        self.reentrant = options["use_reentrant"]

    def forward(self, x: Tensor, **flags: object) -> dict[str, Tensor]:
        shared: dict[str, Tensor] = {}

        def first(x: Tensor) -> Tensor:
            shared["keys"] = self.first(x)
            return x * 2 if self.leaves else shared["keys"]

        def second(x: Tensor) -> Tensor:
            return self.second(x) * (shared["keys"] if self.leaves else 1.0)

        for layer in (first, second):
            x = checkpoint(layer, x, use_reentrant=self.reentrant)
        return {"last_hidden_state": x}


class _Subject:
    causal = False

    def __init__(self, leaves: bool) -> None:
        self.leaves = leaves

    def upstream(self) -> nn.Module:
        torch.manual_seed(0)
        return _Upstream(self.leaves)

    def padded_inputs(self) -> dict[str, Any]:
        return {"x": torch.ones(2, 4)}


@pytest.mark.parametrize("leaves", [False, True])
def test_what_layers_leave_beside_their_outputs_trains_with_no_reentrant_checkpoint(leaves: bool) -> None:
    assert upstream_trains_reentrant(cast(Subject, _Subject(leaves))) is not leaves


@pytest.mark.parametrize(("most", "ends"), [(3, True), (4, False)])
def test_a_way_back_that_recomputes_too_many_layers_is_ended(
    most: int, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "MOST_RECOMPUTED", most)
    x = torch.ones(1, 4, requires_grad=True)
    for _ in range(4):
        x = checkpoint(torch.sin, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match="recomputed") if ends else contextlib.nullcontext(), few_recomputed():
        x.sum().backward()
