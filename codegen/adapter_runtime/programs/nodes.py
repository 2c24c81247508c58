"""Programs: what a composition block means in one layer, built once when adapters are activated.

A program is a tree of nodes. Its leaves are the modules of adapters; a node says how the results of its children become one:

    Leaf    the module of an adapter
    Keep    no adapter: what came in
    Chain   Stack: one after the other
    Rows    BatchSplit, Parallel, MultiTask: each child gets its rows of the batch
    Spans   Split: each child gets its part of the sequence
    Mean    Average: a weighted sum

`BatchInFront` stands around a program where the positions come before the batch, `PackedInFront` where those of all rows stand in one,
`SequenceInFront` where its nodes read all positions of a row and may be given those of all rows in one dimension.

A node is called with the state of its kind of layer: a tensor with the batch first, and whatever else the layer hands on. It
gives the new value of one tensor of the state. Prefixes have nodes of their own, in ``methods/prefix_tuning/program.py``.

Where do I add a block?  See ``programs/blocks.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeGuard

import torch
from torch import nn
from typing_extensions import TypeVarTuple, Unpack

from adapter_runtime.call.context import thread
from adapter_runtime.call.division import RowDivider, check_packed, rows_do_not_show
from adapter_runtime.call.sequences import sequences_of
from adapter_runtime.errors import InvalidCompositionError

Rest = TypeVarTuple("Rest")  # the entries of the state behind the first


class Node:
    """A node of a program.

    Attributes:
        children: the nodes below, in the order of the block.
        added_positions: how many positions it puts in front of the tokens of the model.
        is_between_tokens: whether these stand between the tokens of a row.
        reads_sequence: whether it reads all positions of a row at once, as gates do.
    """

    added_positions: int = 0
    is_between_tokens: bool = False
    reads_sequence: bool = False

    def __init__(self, children: Sequence[Node] = ()) -> None:
        self.children = tuple(children)

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


class TensorNode(Node, Generic[Unpack[Rest]]):
    """A node that is called with the state of a layer."""

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        """The new value of the tensor that adapters change.

        Args:
            value: [B, ...], the first entry of the state.
            rest: the other entries.
        """
        raise NotImplementedError


class Leaf(TensorNode[Unpack[Rest]]):
    """The module of an adapter."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        changed: torch.Tensor = self.module(value, *rest)
        return changed


class Keep(TensorNode[Unpack[Rest]]):
    """No adapter: gives the first entry of the state unchanged."""

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        return value


class Branch(TensorNode[Unpack[Rest]]):
    """A node with children that are called with states of the same kind."""

    programs: tuple[TensorNode[Unpack[Rest]], ...]  # the children, with the type that they have here

    def __init__(self, programs: Sequence[TensorNode[Unpack[Rest]]]) -> None:
        super().__init__(programs)
        self.programs = tuple(programs)


class Chain(Branch[Unpack[Rest]]):
    """One program after the other; the first entry of the state carries the result on."""

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        for program in self.programs:
            value = program(value, *rest)
        return value


class Parts(Branch[Unpack[Rest]]):
    """Base of nodes that give each child a part of the state, along one dimension of its tensors."""

    dimension = 0

    def with_programs(self, programs: Sequence[TensorNode[Unpack[Rest]]]) -> Parts[Unpack[Rest]]:
        """This division of the state, among other children."""
        raise NotImplementedError

    def run_parts(self, state: tuple[torch.Tensor, Unpack[Rest]], sizes: Sequence[int]) -> torch.Tensor:
        """Divide the state, run the children that get anything, and put their results together.

        Args:
            state: tensors [B, ...], which are divided, and other entries, which every child gets as they are.
            sizes: how much of the dimension each child gets.
        """
        if not any(sizes):  # a layer for some positions, of which this call has none: whoever runs gives nothing back
            return self.programs[0](*state)
        columns = [
            (
                torch.split(entry, list(sizes), dim=self.dimension)
                if isinstance(entry, torch.Tensor)
                else [entry] * len(sizes)  # what is no tensor goes to all of them
            )
            for entry in state
        ]
        results = [
            program(*part) for program, size, *part in zip(self.programs, sizes, *columns, strict=True) if size > 0
        ]
        return torch.cat(results, dim=self.dimension)


class Rows(Parts[Unpack[Rest]]):
    """Each child gets its rows of the batch.

    Args:
        divider: says which.

    Raises:
        UnsupportedMethodError: in a call, the layer works on one row that stands for all of the batch.
    """

    def __init__(self, programs: Sequence[TensorNode[Unpack[Rest]]], divider: RowDivider) -> None:
        super().__init__(programs)
        self.divider = divider

    def with_programs(self, programs: Sequence[TensorNode[Unpack[Rest]]]) -> Rows[Unpack[Rest]]:
        return Rows(programs, self.divider)

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        _check_has_rows(value)
        sizes, order, inverse = self.divider.divide(value)
        if order is None or inverse is None:
            return self.run_parts((value, *rest), sizes)
        others = [entry[order] if isinstance(entry, torch.Tensor) else entry for entry in rest]
        # Each entry keeps its type, which the comprehension above cannot tell.
        return self.run_parts((value[order], *others), sizes)[inverse]  # type: ignore[arg-type]


def _check_has_rows(value: torch.Tensor) -> None:
    """Raise for a table that all rows read: upstream projects relative positions by the projections of queries and keys (DeBERTa)."""
    rows = thread.context.rows if thread.context is not None else None
    if len(value) == 1 and rows is not None and rows > 1:
        raise rows_do_not_show(rows, "a projection works on one that stands for all of them (relative positions)")


class Spans(Parts[Unpack[Rest]]):
    """Each child gets its part of the sequence.

    Args:
        programs: of the children.
        lengths: tokens of each child.

    Raises:
        InvalidCompositionError: in a call, the lengths do not sum up to L of the state's tensor [B, L, ...].
    """

    dimension = 1

    def __init__(self, programs: Sequence[TensorNode[Unpack[Rest]]], lengths: Sequence[int]) -> None:
        super().__init__(programs)
        self.lengths = list(lengths)

    def with_programs(self, programs: Sequence[TensorNode[Unpack[Rest]]]) -> Spans[Unpack[Rest]]:
        return Spans(programs, self.lengths)

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        if value.dim() < 3 or value.shape[1] != sum(self.lengths):
            shown = " + ".join(map(str, self.lengths))
            raise InvalidCompositionError(
                f"Split divides sequences of {sum(self.lengths)} tokens ({shown}), but a layer got a tensor of shape "
                f"{list(value.shape)}. Give splits that sum up to the length of the input."
            )
        return self.run_parts((value, *rest), self.lengths)


class Turned(Branch[Unpack[Rest]]):
    """Base of nodes that run one program, on tensors with their dimensions in another order."""


class BatchInFront(Turned[Unpack[Rest]]):
    """A program in a layer that is called with tensors (length, batch, ...): its nodes see (batch, length, ...)."""

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        turned = [entry.transpose(0, 1) if isinstance(entry, torch.Tensor) else entry for entry in rest]
        # Each entry keeps its type, which the comprehension above cannot tell.
        given = self.programs[0](value.transpose(0, 1), *turned)  # type: ignore[arg-type]
        return given.transpose(0, 1).contiguous()  # upstream may go on with views of it


class SequenceInFront(Turned[Unpack[Rest]]):
    """A program in a layer that may be called with tensors (batch * length, ...): its nodes see (batch, length, ...), where that shows.

    Args:
        layer_index: of the layer around it.
    """

    def __init__(self, programs: Sequence[TensorNode[Unpack[Rest]]], layer_index: int) -> None:
        super().__init__(programs)
        self.layer_index = layer_index

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        shape = sequences_of(self.layer_index, len(value)) if value.dim() == 2 else None
        if shape is None:
            return self.programs[0](value, *rest)
        parted = [_parted(entry, shape) if _is_beside(entry, value) else entry for entry in rest]
        # Each entry keeps its type, which the comprehension above cannot tell.
        return self.programs[0](_parted(value, shape), *parted).flatten(0, 1)  # type: ignore[arg-type]


def _parted(rows: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """[B * L, ...] -> [B, L, ...]"""
    return rows.reshape(*shape, *rows.shape[1:])


class PackedInFront(BatchInFront[Unpack[Rest]]):
    """A program in a layer that is called with tensors (1, length, ...) or (length, ...), the positions of all rows side by side.

    Args:
        where: which layer, for messages.
    """

    def __init__(self, programs: Sequence[TensorNode[Unpack[Rest]]], where: str) -> None:
        super().__init__(programs)
        self.where = where

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        if value.dim() > 2 and value.shape[0] != 1:  # it has rows after all
            return self.programs[0](value, *rest)
        for node in self.walk():
            if isinstance(node, Rows):
                check_packed(node.divider, self.where)
        if value.dim() > 2:
            return super().__call__(value, *rest)
        # The residual may have the batch of one that the branch lost in the attention (MiniMax-M3-VL); so has their sum.
        flat = tuple(entry[0] if _is_wider(entry, value) else entry for entry in rest)
        # Each entry keeps its type, which the comprehension above cannot tell.
        given = self.programs[0](value, *flat)  # type: ignore[arg-type]
        return given[None] if any(_is_wider(entry, value) for entry in rest) else given


def _is_beside(entry: object, value: torch.Tensor) -> TypeGuard[torch.Tensor]:
    return isinstance(entry, torch.Tensor) and entry.dim() == value.dim() and len(entry) == len(value)


def _is_wider(entry: object, value: torch.Tensor) -> TypeGuard[torch.Tensor]:
    return isinstance(entry, torch.Tensor) and entry.dim() > value.dim()


class Mean(Branch[Unpack[Rest]]):
    """The weighted sum of the children.

    Args:
        programs: of the children.
        weights: one per child.
        rest: weight of the unchanged state in the sum; 0 = it is no part of it.
        identity: the program that gives the unchanged state; None = `Keep`.
    """

    def __init__(
        self,
        programs: Sequence[TensorNode[Unpack[Rest]]],
        weights: Sequence[float],
        rest: float = 0.0,
        identity: TensorNode[Unpack[Rest]] | None = None,
    ) -> None:
        super().__init__(programs)
        self.weights = list(weights)
        self.rest = rest
        self.identity = Keep() if identity is None else identity

    def with_programs(self, programs: Sequence[TensorNode[Unpack[Rest]]]) -> Mean[Unpack[Rest]]:
        """This sum with the same weights, of other children."""
        return Mean(programs, self.weights, self.rest, self.identity)

    def __call__(self, value: torch.Tensor, *rest: Unpack[Rest]) -> torch.Tensor:
        terms = [program(value, *rest) * weight for program, weight in zip(self.programs, self.weights, strict=True)]
        if self.rest != 0.0:
            terms.append(self.identity(value, *rest) * self.rest)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
