"""How a block divides the rows of a batch among its children: stated once, for layers and for heads."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import torch

from adapter_runtime.call.context import thread
from adapter_runtime.call.rows import TaskRows
from adapter_runtime.errors import InvalidCompositionError, UnsupportedMethodError


class RowDivision(NamedTuple):
    """Which rows of a tensor belong to which child."""

    sizes: list[int]  # rows of each child, in the order of the children
    order: torch.Tensor | None = (
        None  # [B]: the rows of the first child, of the second ...; None = the batch is in this order
    )
    inverse: torch.Tensor | None = None  # [B]: from there back to the order of the batch


class RowDivider(Protocol):
    """Divides rows among the children of a block.

    Attributes:
        layout: tells apart dividers that give different rows to a child.
    """

    layout: tuple[Hashable, ...]

    def divide(self, rows: torch.Tensor, among: str = "") -> RowDivision:
        """The division of a tensor [B, ...] with the batch in front.

        Batch and tokens may also be one dimension, in a tensor [B * L, H]: then each row of the batch is L rows of it.

        Args:
            rows: [B, ...] or [B * L, H], the tensor to divide.
            among: who the children are, for messages: " among heads"; "" = adapters.

        Raises:
            InvalidCompositionError: the numbers of rows do not fit, or the call does not say which rows belong to which child.
        """


class EqualRows:
    """Each child gets an equal share of the rows. With `Parallel`, the input was repeated once per child.

    Args:
        children: how many.
    """

    def __init__(self, children: int) -> None:
        self.children = children
        self.layout: tuple[Hashable, ...] = ("equal",)

    def divide(self, rows: torch.Tensor, among: str = "") -> RowDivision:
        total = rows.shape[0]
        if total % self.children:
            raise InvalidCompositionError(
                f"Parallel runs {self.children} copies of a batch, but {total} rows are no multiple of that."
            )
        return RowDivision([total // self.children] * self.children)


def repeats_of(rows: torch.Tensor, batch: int, block: str, among: str = "") -> int:
    """How many rows of a tensor stand for one row of the batch.

    More than one with beam search, where tokens and batch are one dimension, and where upstream cuts each row into windows: the last shows
    in that the call itself has as many rows as the block divides.

    Args:
        rows: [B, ...], [B * windows, ...] or [B * L, H]; those of one row of the batch stand side by side.
        batch: how many rows a block divides.
        block: its name, for the message.
        among: see `RowDivider.divide`.

    Raises:
        InvalidCompositionError: the batch has another number of rows.
    """
    total = rows.shape[0]
    beams = thread.context.rows_per_input if thread.context is not None else 1
    fitting = (batch, batch * beams)
    is_whole_call = thread.context is not None and thread.context.rows in fitting
    are_parts = (rows.dim() == 2 or is_whole_call) and batch and total % batch == 0
    if total not in fitting and not are_parts:
        raise InvalidCompositionError(f"{block} divides {batch} rows{among}, but the batch has {total}.")
    return total // batch if batch else 1


def rows_do_not_show(batch: int | None, but: str) -> UnsupportedMethodError:
    """The error where rows are assigned to adapters, and a layer or a model works on others.

    Args:
        batch: how many there are; None = unknown.
        but: what works on which.
    """
    counted = "rows" if batch is None else f"the {batch} rows"
    return UnsupportedMethodError(
        f"The active setup assigns {counted} of the batch to adapters, but {but}: which belong to which does not show."
        " Leave these layers out of the adapters (leave_out, or parts in a model made of several), or call the model for each adapter."
    )


def check_packed(divider: RowDivider, where: str) -> None:
    """Raise where a layer in which the positions of all rows stand side by side is to give each child its rows.

    Equal shares of them are those of copies of the batch, which follow each other there too.

    Args:
        where: which layer, for the message.

    Raises:
        UnsupportedMethodError: they need not be equal.
    """
    if not isinstance(divider, EqualRows):
        batch = thread.context.rows if thread.context is not None else None
        raise rows_do_not_show(batch, f"{where} gets the positions of all rows in one")


class CountedRows:
    """Each child gets the number of rows that `BatchSplit` states, times the beams of a generation.

    Args:
        counts: rows of each child.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self.layout: tuple[Hashable, ...] = ("counts", *self.counts)

    def divide(self, rows: torch.Tensor, among: str = "") -> RowDivision:
        shown = f" ({' + '.join(map(str, self.counts))}){among}"
        repeats = repeats_of(rows, sum(self.counts), "BatchSplit", shown)
        return RowDivision([count * repeats for count in self.counts])


class TaskedRows:
    """Each child of `MultiTask` gets the rows of its task, as the argument ``task_ids`` of the call says.

    Args:
        children: how many.
    """

    def __init__(self, children: int) -> None:
        self.children = children
        self.layout: tuple[Hashable, ...] = ("tasks",)

    def divide(self, rows: torch.Tensor, among: str = "") -> RowDivision:
        tasks = task_rows(rows.shape[0], rows.device)
        return RowDivision(tasks.sizes(self.children), tasks.order, tasks.inverse)


def task_rows(rows: int, device: torch.device) -> TaskRows:
    """The tasks of the rows of a tensor.

    Args:
        rows: how many rows the tensor has.
        device: of the tensor.

    Raises:
        InvalidCompositionError: the call does not tell them.
    """
    context = thread.context
    if context is None or context.task_rows is None:
        raise InvalidCompositionError(
            "MultiTask needs to know the task of each row: activate MultiTask adapters too, and call the model"
            " with task_ids=[...], one per row."
        )
    return context.task_rows.of(rows, device)
