"""Composition blocks are data: equal where they mean the same, refused where they mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_runtime.composition import (
    AdapterCompositionBlock,
    Average,
    BatchSplit,
    Fuse,
    Parallel,
    Split,
    Stack,
    parse_composition,
)
from adapter_runtime.errors import InvalidCompositionError


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Stack(), id="a block without children"),
        pytest.param(lambda: Stack(3), id="a child that is a number"),  # type: ignore[arg-type]
        pytest.param(lambda: Split("a", "b", splits=[1]), id="fewer splits than children"),
        pytest.param(lambda: BatchSplit("a", "b", batch_sizes=[1, -1]), id="a negative number of rows"),
        pytest.param(lambda: Average("a", "b", weights=[1.0]), id="fewer weights than children"),
        pytest.param(lambda: Average("a", "b", weights=[1.0, -1.0]), id="weights that cannot be normalised"),
        pytest.param(lambda: parse_composition(Fuse(Parallel("a", "b"))), id="a block where it cannot stand"),
        pytest.param(lambda: parse_composition([[["a"]]]), id="lists nested too deep"),
        pytest.param(
            lambda: parse_composition(Parallel(Stack(Parallel("a", "b")), "c")),
            id="copies of the batch inside of copies",
        ),
        pytest.param(
            lambda: parse_composition(BatchSplit(Stack(Parallel("a", "b")), "c", batch_sizes=1)),
            id="copies of the batch for a part of it",
        ),
        pytest.param(
            lambda: parse_composition(Stack(Parallel("a", "b"), Parallel("a", "b", "c"))),
            id="different numbers of copies",
        ),
    ],
)
def test_refused(make: Any) -> None:
    with pytest.raises(InvalidCompositionError):
        make()


def test_blocks_are_equal_only_as_a_whole() -> None:
    assert Stack("a", "b") == Stack("a", "b")
    assert Stack("a") != Stack("a", "b")
    assert Stack("a") != Fuse("a")
    assert BatchSplit("a", "b", batch_sizes=[1, 2]) != BatchSplit("a", "b", batch_sizes=[2, 1])
    assert len({Stack("a", Fuse("b", "c")), Stack("a", Fuse("b", "c")), Stack("a", Fuse("c", "b"))}) == 2


@pytest.mark.parametrize(
    ("setup", "block"),
    [
        (None, None),
        ("a", Stack("a")),
        (["a", "b"], Stack("a", "b")),
        (["a", ["b", "c"]], Stack("a", Fuse("b", "c"))),
        (Parallel("a", "b"), Parallel("a", "b")),
    ],
)
def test_parsed(setup: Any, block: AdapterCompositionBlock | None) -> None:
    assert parse_composition(setup) == block


def test_names_come_in_order() -> None:
    block = Stack("a", Split("b", Stack("c", "a"), splits=2))
    assert list(block.names()) == ["a", "b", "c", "a"]
    assert (block.first(), block.last(), block.flatten()) == ("a", "a", {"a", "b", "c"})


def test_weights_of_an_average_sum_to_one() -> None:
    assert Average("a", "b", weights=[1, 3]).weights == [0.25, 0.75]
