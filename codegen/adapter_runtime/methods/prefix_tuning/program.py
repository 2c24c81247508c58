"""Programs of prefixes: what a composition block means in one attention.

Prefixes have rules of their own. Those of a stack stand side by side, the last in front; rows with prefixes of different
lengths, or without any, are filled up with positions that the mask hides.

Letters of shapes: B rows, h key heads, P positions of the prefix, H width of the hidden states.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad

from adapter_runtime.call.context import Place, record_gate
from adapter_runtime.call.division import RowDivider, check_packed
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.gates import mean_gate
from adapter_runtime.methods.prefix_tuning.call import LayerPrefix
from adapter_runtime.methods.prefix_tuning.module import PrefixTuning
from adapter_runtime.programs.nodes import Node


class Attended(NamedTuple):
    """What an attention has when the prefix comes in."""

    key: torch.Tensor  # [B, h, K, width]
    value: torch.Tensor  # [B, h, K, value width]
    # [B, Q, H], or more dimensions between: those of an image; [1, ...] where all rows have the same queries
    gate_input: torch.Tensor | None

    def of(self, rows: slice[int, int, None] | torch.Tensor) -> Attended:
        """These tensors for some rows, or for all rows in another order.

        Args:
            rows: a range of rows, or their indices [R].
        """
        gate_input = self.gate_input
        if gate_input is not None and len(gate_input) == len(self.key):
            gate_input = gate_input[rows]
        return Attended(self.key[rows], self.value[rows], gate_input)

    def shares(self, sizes: list[int]) -> list[Attended]:
        """These tensors, divided by positions."""
        keys, values = (torch.split(states, sizes, dim=2) for states in (self.key, self.value))
        gated = [None] * len(sizes) if self.gate_input is None else torch.split(self.gate_input, sizes, dim=1)
        return [Attended(*share) for share in zip(keys, values, gated, strict=True)]


class PrefixNode(Node):
    """What runs in one attention.

    Attributes:
        length: P.
        layout: tells apart programs that hide different positions from different rows.
    """

    length: int
    layout: tuple[Hashable, ...]

    def pieces(self, attended: Attended) -> list[LayerPrefix]:
        """Keys and values [B, h, ..., width] of prefixes that stand side by side."""
        raise NotImplementedError

    def visible(self, rows: torch.Tensor) -> torch.Tensor | None:
        """[B, P], or [B, Q, P] where queries differ: true where a row sees a position; None where all see all.

        Args:
            rows: a tensor with B rows.
        """
        return None


class PlacedPrefix(PrefixNode):
    """A prefix as one attention sees it.

    Args:
        tuning: the prefix of all attentions of a kind.
        position: which of them this is.
        gate: scales keys and values by what it reads in the hidden states.
        place: where this is.
    """

    def __init__(self, tuning: PrefixTuning, position: int, gate: nn.Linear | None, place: Place) -> None:
        super().__init__()
        self.tuning = tuning
        self.position = position
        self.gate = gate
        self.place = place
        self.length = tuning.config.prefix_length
        self.layout = (self.length,)

    def pieces(self, attended: Attended) -> list[LayerPrefix]:
        prefix = self.tuning.for_rows(attended.key)[self.position]
        if self.gate is None:
            return [prefix]
        gate = self._gate_of(attended.gate_input)
        record_gate(self.place, gate)
        return [LayerPrefix(prefix.key * gate[..., :1], prefix.value * gate[..., -1:])]

    def _gate_of(self, states: torch.Tensor | None) -> torch.Tensor:
        """[B, ..., H] -> [B, 1, 1, 1 or 2]

        Raises:
            UnsupportedMethodError: there are no hidden states, or they have another width than those of other attentions of this class.
        """
        assert self.gate is not None
        if states is None or states.shape[-1] != self.gate.in_features:
            found = "no hidden states" if states is None else f"states {states.shape[-1]} wide"
            raise UnsupportedMethodError(
                f"The gate of {self.place.location} in layer {self.place.layer} reads states {self.gate.in_features} wide, but the"
                f" attention has {found}. Use use_gating=False, or leave the layer out: leave_out=[{self.place.layer}]."
            )
        gate = mean_gate(self.gate(states))
        return gate.view(len(gate), 1, 1, -1)


class PrefixesInFront(PrefixNode):
    """`Stack`: the last prefix stands in front."""

    def __init__(self, programs: Sequence[PrefixNode]) -> None:
        self.programs = list(reversed(programs))
        super().__init__(self.programs)
        self.length = sum(program.length for program in programs)
        self.layout = ("stack", *(program.layout for program in self.programs))

    def pieces(self, attended: Attended) -> list[LayerPrefix]:
        return [piece for program in self.programs for piece in program.pieces(attended)]

    def visible(self, rows: torch.Tensor) -> torch.Tensor | None:
        parts = [program.visible(rows) for program in self.programs]
        if all(part is None for part in parts):
            return None
        of_queries = next((part.shape[:-1] for part in parts if part is not None and part.dim() == 3), rows.shape[:1])
        every = rows.new_ones(*of_queries, 1, dtype=torch.bool)
        return torch.cat(
            [
                every.expand(*of_queries, program.length) if part is None else part
                for program, part in zip(self.programs, parts, strict=True)
            ],
            dim=-1,
        )


class PrefixesOfRows(PrefixNode):
    """`BatchSplit`, `Parallel`, `MultiTask`: each row has the prefix of one child.

    Args:
        programs: of the children; None = it has no prefix here.
        divider: which rows belong to which child.
    """

    def __init__(self, programs: Sequence[PrefixNode | None], divider: RowDivider) -> None:
        super().__init__([program for program in programs if program is not None])
        self.programs = list(programs)
        self.divider = divider
        self.lengths = [0 if program is None else program.length for program in programs]
        self.length = max(self.lengths)
        layouts = (() if program is None else program.layout for program in programs)
        self.layout = (divider.layout, *layouts)

    def pieces(self, attended: Attended) -> list[LayerPrefix]:
        sizes, order, inverse = self.divider.divide(attended.key)
        if order is not None:
            attended = attended.of(order)
        parts = [self._filled(child, part) for child, part in self._parts(attended, sizes)]
        key, value = (torch.cat(states, dim=0) for states in zip(*parts, strict=True))
        return [LayerPrefix(key, value) if inverse is None else LayerPrefix(key[inverse], value[inverse])]

    def _parts(self, attended: Attended, sizes: Sequence[int]) -> list[tuple[PrefixNode | None, Attended]]:
        """The children that have any rows, each with these."""
        spans = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
        return [
            (program, attended.of(span))
            for program, span in zip(self.programs, spans, strict=True)
            if span.start < span.stop
        ]

    def _filled(self, program: PrefixNode | None, attended: Attended) -> LayerPrefix:
        """The prefix of one child, with positions that nobody sees in front."""
        if program is None:
            key, value = (
                states.new_zeros(*states.shape[:2], self.length, states.shape[-1])
                for states in (attended.key, attended.value)
            )
            return LayerPrefix(key, value)
        pieces = program.pieces(attended)
        if len(pieces) == 1 and program.length == self.length:
            return pieces[0]
        missing = (0, 0, self.length - program.length, 0)
        return LayerPrefix(*(pad(torch.cat(states, dim=-2), missing) for states in zip(*pieces, strict=True)))

    def visible(self, rows: torch.Tensor) -> torch.Tensor | None:
        sizes, order, inverse = self.divider.divide(rows)
        ordered = rows if order is None else rows[order]
        children = zip(self.programs, torch.split(ordered, sizes), strict=True)
        parts = [(program, part, program.visible(part) if program is not None else None) for program, part in children]
        if all(found is None for _, _, found in parts) and set(self.lengths) == {self.length}:
            return None
        columns = torch.cat([self._seen(program, part, found) for program, part, found in parts])
        return columns if inverse is None else columns[inverse]

    def _seen(self, program: PrefixNode | None, rows: torch.Tensor, found: torch.Tensor | None) -> torch.Tensor:
        """Which of the P positions each row of a child sees: [rows of the child, P]."""
        length = 0 if program is None else program.length
        if found is None:
            found = rows.new_ones(rows.shape[0], length, dtype=torch.bool)
        return pad(found, (self.length - length, 0), value=False)


class PrefixesOfPacked(PrefixesOfRows):
    """`PrefixesOfRows` in an attention that gets the positions of all rows in one: copies of the batch are equal shares of them.

    The prefixes of all children stand side by side, and each query sees those of its copy.

    Args:
        where: which attention, for messages.
    """

    def __init__(self, programs: Sequence[PrefixNode | None], divider: RowDivider, where: str) -> None:
        super().__init__(programs, divider)
        self.where = where
        self.length = sum(self.lengths)
        self.layout = ("packed", *self.layout)

    def pieces(self, attended: Attended) -> list[LayerPrefix]:
        if attended.key.shape[0] != 1:
            return super().pieces(attended)
        check_packed(self.divider, self.where)
        children = zip(self.programs, attended.shares(self._sizes(attended.key)), strict=True)
        return [piece for program, share in children if program is not None for piece in program.pieces(share)]

    def visible(self, rows: torch.Tensor) -> torch.Tensor | None:
        """See `PrefixNode`.

        Args:
            rows: keys [B, h, K, width] of an attention of positions to themselves, of which there are as many queries.
        """
        if rows.shape[0] != 1:
            return super().visible(rows)
        shares = torch.split(rows, self._sizes(rows), dim=2)
        ends = accumulate(self.lengths)  # of the positions of each child
        return torch.cat(
            [
                pad(_seen_by_queries(program, share), (end - length, self.length - end), value=False)
                for program, share, length, end in zip(self.programs, shares, self.lengths, ends, strict=True)
            ]
        )[None]

    def _sizes(self, keys: torch.Tensor) -> list[int]:
        return self.divider.divide(keys[0].transpose(0, 1)).sizes


def _seen_by_queries(program: PrefixNode | None, keys: torch.Tensor) -> torch.Tensor:
    """Which positions of a program each query sees: [Q, P].

    Args:
        keys: [1, h, Q, width]
    """
    length, queries = 0 if program is None else program.length, keys.shape[2]
    found = None if program is None else program.visible(keys)
    return keys.new_ones(queries, length, dtype=torch.bool) if found is None else found[0].expand(queries, -1)
