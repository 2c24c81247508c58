"""Putting P columns into tensors of L columns, and taking them out again.

Letters of shapes: B rows, L tokens, P positions of a prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Insertion(NamedTuple):
    """Where the positions of a prompt stand among the tokens.

    Attributes:
        length: P.
        at: the columns in front of the prompt; one number for all rows, or [B] where rows differ (padding on the left).
        leads: whether no token of a row stands in front of the prompt, but for padding.
        first: [B], the column of the first token of each row, where padding may stand in front of it; None = 0.
    """

    length: int
    at: int | torch.Tensor = 0
    leads: bool = False
    first: torch.Tensor | None = None

    def into(self, tokens: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Put the prompt among the tokens: [B, L, ...] and [B, P, ...] -> [B, L + P, ...]. One row stands for all."""
        if isinstance(self.at, int):
            if self.at == 0:
                return torch.cat([prompt, tokens], dim=1)
            return torch.cat([tokens[:, : self.at], prompt, tokens[:, self.at :]], dim=1)
        columns = torch.arange(tokens.shape[1] + self.length, device=tokens.device)[None]
        at = self.at.to(tokens.device)[:, None]
        # The prompt comes first in what is picked from, so token c stands at P + c.
        token = torch.where(columns < at, columns + self.length, columns)
        source = torch.where((columns >= at) & (columns < at + self.length), columns - at, token)
        return _pick(torch.cat([prompt, tokens], dim=1), source)

    def out_of(self, states: torch.Tensor) -> torch.Tensor:
        """[B, L + P, ...] -> [B, L, ...], the positions of the prompt left out.

        Contiguous, as upstream's states are: attention across them may view what it computes of them in other shapes (GPT-2).
        """
        if isinstance(self.at, int):
            rest = states[:, self.at + self.length :]
            return rest.contiguous() if self.at == 0 else torch.cat([states[:, : self.at], rest], dim=1)
        columns = torch.arange(states.shape[1] - self.length, device=states.device)[None]
        at = self.at.to(states.device)[:, None]
        return _pick(states, torch.where(columns < at, columns, columns + self.length))

    def into_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions [B or 1, L] -> [B, L + P]: the prompt is counted as tokens would be, and what stands behind it moves up.

        It goes on after the token in front of it. Where it leads, it begins where the tokens did, which need not be at 0 (PaliGemma).
        """
        count = torch.arange(self.length, dtype=positions.dtype, device=positions.device)[None]
        if isinstance(self.at, int):
            first, rest = positions[:, : self.at], positions[:, self.at :]
            start = self._first_position(positions, self.at) if self.leads or self.at == 0 else first[:, -1:] + 1
            rows = max(len(positions), len(start))
            parts = (first, start + count, rest + self.length)
            return torch.cat([part.expand(rows, -1) for part in parts], dim=1)
        at = self.at.to(positions.device)[:, None]
        positions = positions.expand(at.shape[0], -1)
        columns = torch.arange(positions.shape[1], device=positions.device)[None]
        start = positions.gather(1, at) if self.leads else positions.gather(1, at - 1) + 1
        return self.into(torch.where(columns < at, positions, positions + self.length), start + count)

    def _first_position(self, positions: torch.Tensor, at: int) -> torch.Tensor:
        """The position [B or 1, 1] from which tokens are counted: of the first column, where padding is counted like tokens; else of the
        first token, as positions of padding say nothing.
        """
        if self.first is None:
            return positions[:, at : at + 1]
        # Of a prompt that is read in chunks, a mask has more columns.
        first = self.first.to(positions.device)[:, None].clamp(max=positions.shape[1] - 1)
        columns = torch.arange(positions.shape[1], device=positions.device)
        counts_on = (positions - positions[:, :1] == columns) | (columns > first)
        if bool(counts_on.all()) and bool((positions == positions[:1]).all()):
            return positions[:, :1]
        return positions.expand(len(first), -1).gather(1, first)


def _pick(source: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pick columns of each row: [B or 1, S, ...] and column numbers [B or 1, C] -> [B, C, ...]."""
    rows = max(source.shape[0], columns.shape[0])
    index = columns.reshape(*columns.shape, *(1,) * (source.dim() - 2))
    return source.expand(rows, *source.shape[1:]).gather(1, index.expand(rows, columns.shape[1], *source.shape[2:]))
