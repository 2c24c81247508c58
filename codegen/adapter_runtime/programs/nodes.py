"""Programs: what a composition block means in one layer, compiled once when adapters are activated.

A program is a callable. All programs of one kind of layer take the same state (tensors with the batch first, and whatever
else the layer hands on) and give the new value of one tensor of it. The leaves are modules of adapters; the nodes are here:

    Chain   Stack: one after the other
    Rows    BatchSplit, Parallel: each child gets its rows
    Tasks   MultiTask: each child gets the rows of its task
    Spans   Split: each child gets its part of the sequence
    Mean    Average: a weighted sum

Which blocks a kind of layer can run is said by `AdapterLayerBase.runnable_blocks`. Where do I add a block?  Its class in
``composition.py``, a node here, its line in `AdapterLayerBase.build_program`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from adapter_runtime.call.context import thread
from adapter_runtime.call.rows import TaskRows
from adapter_runtime.errors import InvalidCompositionError

Program: TypeAlias = Callable[..., torch.Tensor]


def first_kept(value: torch.Tensor, *rest: Any) -> torch.Tensor:
    """The program of no adapter where the first entry of the state is what adapters change."""
    return value


def second_kept(_: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
    """The same where it is the second."""
    return value


class Chain:
    """One program after the other; the first entry of the state carries the result on."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)

    def __call__(self, value: torch.Tensor, *rest: Any) -> torch.Tensor:
        for program in self.programs:
            value = program(value, *rest)
        return value


class Parts:
    """Base of nodes that give each child a part of the state, along one dimension of its tensors."""

    dimension = 0

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)

    def sizes(self, total: int, state: Sequence[Any]) -> list[int]:
        """How much of `total` each child gets."""
        raise NotImplementedError

    def __call__(self, *state: Any) -> torch.Tensor:
        sizes = self.sizes(state[0].shape[self.dimension], state)
        return self.joined(self.divided(state, sizes))

    def divided(self, state: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
        """The state of each child. What is no tensor goes to all of them."""
        columns = [
            (
                torch.split(entry, list(sizes), dim=self.dimension)
                if isinstance(entry, torch.Tensor)
                else [entry] * len(sizes)
            )
            for entry in state
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    def joined(self, states: Sequence[Sequence[Any]]) -> torch.Tensor:
        """Run the children that have anything to do, and put their results together."""
        pairs = zip(self.programs, states, strict=True)
        results = [program(*state) for program, state in pairs if state[0].shape[self.dimension] > 0]
        return torch.cat(results, dim=self.dimension)


class Rows(Parts):
    """Each child gets its rows of the batch.

    Args:
        counts: rows per child; None = equal parts, which is what `Parallel` leaves after the input was repeated.
    """

    def __init__(self, programs: Sequence[Program], counts: Sequence[int] | None = None) -> None:
        super().__init__(programs)
        self.counts = None if counts is None else list(counts)

    def sizes(self, total: int, state: Sequence[Any]) -> list[int]:
        counts = self.counts or [1] * len(self.programs)
        whole = sum(counts)
        # Tokens may come as one dimension with the batch: then a row of the batch is several of the tensor.
        is_flat = self.counts is None or state[0].dim() == 2
        beams = thread.context.rows_per_input if thread.context is not None else 1
        if total not in (whole, whole * beams) and not (is_flat and total % whole == 0):
            raise InvalidCompositionError(
                f"A block divides a batch of {whole} rows ({' + '.join(map(str, counts))}), but the batch has {total}."
                if self.counts is not None
                else f"Parallel runs {whole} copies of a batch, but {total} rows are no multiple of that."
            )
        return [count * (total // whole) for count in counts]


class Spans(Parts):
    """Each child gets its part of the sequence."""

    dimension = 1

    def __init__(self, programs: Sequence[Program], lengths: Sequence[int]) -> None:
        super().__init__(programs)
        self.lengths = list(lengths)

    def sizes(self, total: int, state: Sequence[Any]) -> list[int]:
        if state[0].dim() < 3 or total != sum(self.lengths):
            shown = " + ".join(map(str, self.lengths))
            raise InvalidCompositionError(
                f"Split divides sequences of {sum(self.lengths)} tokens ({shown}), but a layer got a tensor of shape "
                f"{list(state[0].shape)}. Give splits that sum up to the length of the input."
            )
        return self.lengths


class Tasks(Rows):
    """Each child gets the rows of its task, as the argument ``task_ids`` of the call says."""

    @staticmethod
    def task_rows(state: torch.Tensor) -> TaskRows:
        """The tasks of the rows of a tensor.

        Raises:
            InvalidCompositionError: the call does not tell them.
        """
        context = thread.context
        if context is None or context.task_rows is None:
            raise InvalidCompositionError(
                "MultiTask needs to know the task of each row. Call the model with task_ids=[...], one per row."
            )
        return context.task_rows.of(state.shape[0], state.device)

    def __call__(self, *state: Any) -> torch.Tensor:
        rows = self.task_rows(state[0])
        ordered = [entry[rows.order] if isinstance(entry, torch.Tensor) else entry for entry in state]
        sizes = rows.sizes(len(self.programs))
        return self.joined(self.divided(ordered, sizes))[rows.inverse]


class Mean:
    """The weighted sum of the children.

    Args:
        rest: weight of the state as it is, beside the children.
        identity: the program of no adapter.
    """

    def __init__(
        self, programs: Sequence[Program], weights: Sequence[float], rest: float = 0.0, identity: Program = first_kept
    ) -> None:
        self.programs = list(programs)
        self.weights = list(weights)
        self.rest = rest
        self.identity = identity

    def __call__(self, *state: Any) -> torch.Tensor:
        terms = [program(*state) * weight for program, weight in zip(self.programs, self.weights, strict=True)]
        if self.rest != 0.0:
            terms.append(self.identity(*state) * self.rest)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
