"""Which run in training is one without a dropped layer."""

from __future__ import annotations

import pytest

from conformance.checks.checkpointing import first_that_runs

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
