"""What blocks compile to, on plain tensors: every node against its formula, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from adapter_runtime.call.context import AdapterSetup, ForwardContext, thread
from adapter_runtime.call.rows import TaskRows
from adapter_runtime.composition import Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack, parse_composition
from adapter_runtime.errors import InvalidCompositionError, UnsupportedMethodError
from adapter_runtime.methods.lora.program import keep_output
from adapter_runtime.programs.layer import TensorLayer
from adapter_runtime.programs.nodes import BatchInFront, Leaf, Mean


class Adds(nn.Module):
    """x -> x + amount."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.amount


class Doubles(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Layer(TensorLayer):
    """A layer with adapters "one" (adds 1), "ten" (adds 10) and "twice"."""

    adapter_containers = ("held",)
    method_name = "the method of this test"
    runnable_blocks = (Stack, BatchSplit, Parallel, MultiTask, Average, Split)

    def __init__(self) -> None:
        super().__init__()
        self.init_adapter_layer(2, "place")
        self.held.update({"one": Adds(1.0), "ten": Adds(10.0), "twice": Doubles()})


def run(setup: object, x: torch.Tensor) -> torch.Tensor:
    layer = Layer()
    layer.activate(parse_composition(setup), frozenset())  # type: ignore[arg-type]
    return x if layer.program is None else layer.program(x)


@pytest.fixture
def tasks() -> Iterator[ForwardContext]:
    thread.context = ForwardContext()
    yield thread.context
    thread.context = None


X = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]]])  # (3, 2, 1)


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        ("one", X + 1),
        (Stack("one", "twice"), 2 * (X + 1)),
        (Stack("twice", "one"), 2 * X + 1),
        (Stack("absent", "one"), X + 1),
        (BatchSplit("one", "ten", batch_sizes=[1, 2]), torch.cat([X[:1] + 1, X[1:] + 10])),
        (BatchSplit("one", "absent", batch_sizes=[1, 2]), torch.cat([X[:1] + 1, X[1:]])),
        (Stack("twice", BatchSplit("one", "ten", batch_sizes=[2, 1])), torch.cat([2 * X[:2] + 1, 2 * X[2:] + 10])),
        (Parallel("one", "ten", "twice"), torch.cat([X[:1] + 1, X[1:2] + 10, 2 * X[2:]])),
        (Average("one", "ten"), X + 5.5),
        (Average("one", "ten", weights=[1, 3]), X + 7.75),
        (Average("one", "absent"), X + 0.5),
        (Average("one", "ten", weights=[1, 1], normalize_weights=False), 2 * X + 11),
        (Split("one", "ten", splits=1), torch.cat([X[:, :1] + 1, X[:, 1:] + 10], dim=1)),
        (Split("absent", "ten", splits=1), torch.cat([X[:, :1], X[:, 1:] + 10], dim=1)),
        ("absent", X),
        (Parallel("absent", "absent"), X),
    ],
    ids=str,
)
def test_a_block_is_its_formula(setup: object, expected: torch.Tensor) -> None:
    torch.testing.assert_close(run(setup, X), expected)


def test_rows_of_tokens_without_a_dimension_for_the_batch_are_divided_in_proportion() -> None:
    flat = X.reshape(6, 1)
    given = run(BatchSplit("one", "ten", batch_sizes=[1, 2]), flat)
    torch.testing.assert_close(given, torch.cat([flat[:2] + 1, flat[2:] + 10]))


def test_windows_of_a_row_have_its_adapter_where_the_call_has_the_rows_of_the_block(tasks: ForwardContext) -> None:
    tasks.rows = 3
    windows = X.repeat_interleave(2, dim=0)
    given = run(BatchSplit("one", "ten", batch_sizes=[1, 2]), windows)
    torch.testing.assert_close(given, torch.cat([windows[:2] + 1, windows[2:] + 10]))


def test_a_batch_that_is_a_multiple_is_not_taken_for_windows(tasks: ForwardContext) -> None:
    tasks.rows = 6
    with pytest.raises(InvalidCompositionError, match=r"3 rows \(1 \+ 2\), but the batch has 6"):
        run(BatchSplit("one", "ten", batch_sizes=[1, 2]), X.repeat_interleave(2, dim=0))


@pytest.mark.parametrize(
    "block",
    [Parallel("one", "ten"), BatchSplit("one", "ten", batch_sizes=[1, 2]), MultiTask("one", "ten")],
    ids=lambda block: type(block).__name__,
)
def test_a_row_that_all_of_the_batch_read_belongs_to_no_adapter(block: object, tasks: ForwardContext) -> None:
    """Relative positions, which go through the projection of the queries too (DeBERTa)."""
    tasks.rows = 3
    with pytest.raises(UnsupportedMethodError, match="one that stands for all"):
        run(block, X[:1])
    assert torch.equal(run("ten", X[:1]), X[:1] + 10)  # any one adapter can be asked


def test_each_row_goes_to_its_task(tasks: ForwardContext) -> None:
    block = MultiTask("one", "ten", "twice")
    tasks.task_rows = TaskRows.read(["ten", "one", "ten"], block)
    torch.testing.assert_close(run(block, X), torch.cat([X[:1] + 10, X[1:2] + 1, X[2:] + 10]))
    flat = X.reshape(6, 1)
    torch.testing.assert_close(run(block, flat), torch.cat([flat[:2] + 10, flat[2:4] + 1, flat[4:] + 10]))
    tasks.task_rows = TaskRows.read([1, 2, 0], block)  # an order that is not its own inverse
    torch.testing.assert_close(run(block, X), torch.cat([X[:1] + 10, 2 * X[1:2], X[2:] + 1]))


@pytest.mark.parametrize("task_ids", [torch.tensor([1, 0, 1]), [1, 0, 1], ["ten", "one", "ten"]], ids=str)
def test_tasks_are_numbers_or_names(task_ids: object) -> None:
    rows = TaskRows.read(task_ids, MultiTask("one", Stack("twice", "ten")))  # type: ignore[arg-type]
    assert rows.tasks.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("task_ids", "message"),
    [
        pytest.param(["one", "two"], "'two', but the tasks are one, ten", id="an unknown name"),
        pytest.param([0, 2], "0 to 2, but MultiTask has 2", id="a number without a child"),
        pytest.param([-1, 0], "-1 to 0", id="a negative number"),
        pytest.param(torch.zeros(2, 1, dtype=torch.long), r"\[2, 1\]", id="a matrix"),
    ],
)
def test_wrong_tasks_are_refused(task_ids: object, message: str) -> None:
    with pytest.raises(InvalidCompositionError, match=message):
        TaskRows.read(task_ids, MultiTask("one", "ten"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        pytest.param(
            BatchSplit("one", "ten", batch_sizes=[1, 1]), r"2 rows \(1 \+ 1\), but the batch has 3", id="rows"
        ),
        pytest.param(BatchSplit("one", "ten", batch_sizes=[1, 0]), r"1 rows", id="a multiple is no batch"),
        pytest.param(Parallel("one", "ten"), "3 rows are no multiple", id="an input that nobody repeated"),
        pytest.param(Split("one", "ten", splits=[1, 2]), r"3 tokens \(1 \+ 2\)", id="a sequence of another length"),
        pytest.param(MultiTask("one", "ten"), r"task_ids=", id="no tasks given"),
    ],
)
def test_what_does_not_fit_the_input_is_refused(setup: object, message: str) -> None:
    with pytest.raises(InvalidCompositionError, match=message):
        run(setup, X)


def test_a_block_that_the_method_cannot_run_is_refused_where_its_adapters_live() -> None:
    with pytest.raises(UnsupportedMethodError, match=r"Fuse cannot be run with the method of this test: Fuse\('one'"):
        run(Fuse("one", "absent"), X)
    torch.testing.assert_close(run(Fuse("absent", "elsewhere"), X), X)


def test_a_skipped_layer_runs_nothing_under_any_setup() -> None:
    layer = Layer()
    layer.activate(parse_composition("one"), frozenset({2}))
    assert layer.program is None and layer.program_under(AdapterSetup("ten")) is None
    layer.activate(parse_composition("one"), frozenset({1}))
    assert layer.program.module is layer.held["one"]
    assert layer.program_under(AdapterSetup("ten")).module is layer.held["ten"]


def test_a_mean_leaves_the_rest_to_what_came_in() -> None:
    mean = Mean([Leaf(lambda x, y: y + x)], [0.5], rest=0.5, identity=keep_output)
    torch.testing.assert_close(mean(torch.ones(2), torch.full((2,), 4.0)), torch.full((2,), 4.5))


@pytest.mark.parametrize(
    "setup",
    [
        BatchSplit("one", "ten", batch_sizes=[1, 2]),
        MultiTask("one", "ten"),
        Split("one", "ten", splits=[3, 1]),
        Stack("twice", BatchSplit("one", "ten", batch_sizes=[2, 1])),
    ],
)
def test_rows_and_positions_are_found_where_the_length_comes_first(setup: object, tasks: ForwardContext) -> None:
    block = parse_composition(setup)  # type: ignore[arg-type]
    tasks.task_rows = TaskRows(torch.tensor([1, 0, 1]))
    x = torch.randn(3, 4, 2)
    plain, turned = Layer(), Layer()
    turned.is_length_first = True
    for layer in (plain, turned):
        layer.activate(block, frozenset())
    assert plain.program is not None and turned.program is not None
    given = turned.program(x.transpose(0, 1))
    assert given.is_contiguous()
    assert torch.equal(given.transpose(0, 1), plain.program(x))
    with AdapterSetup(block) as scope:
        under = turned.program_under(scope)
    assert under is not None and torch.equal(under(x.transpose(0, 1)), given)


def test_what_divides_nothing_is_left_as_it_is_where_the_length_comes_first() -> None:
    layer = Layer()
    layer.is_length_first = True
    layer.activate(Stack("one", "ten"), frozenset())
    assert type(layer.program) is not BatchInFront
