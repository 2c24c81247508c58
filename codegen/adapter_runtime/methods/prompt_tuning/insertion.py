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
        at: the tokens in front of the prompt; one number for all rows, or [B] where rows differ (padding on the left).
    """

    length: int
    at: int | torch.Tensor = 0

    def into(self, tokens: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Put the prompt among the tokens: [B, L, ...] and [B, P, ...] -> [B, L + P, ...]."""
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
        """[B, L + P, ...] -> [B, L, ...], the positions of the prompt left out."""
        if isinstance(self.at, int):
            rest = states[:, self.at + self.length :]
            return rest if self.at == 0 else torch.cat([states[:, : self.at], rest], dim=1)
        columns = torch.arange(states.shape[1] - self.length, device=states.device)[None]
        at = self.at.to(states.device)[:, None]
        return _pick(states, torch.where(columns < at, columns, columns + self.length))

    def into_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions [B or 1, L] -> [B, L + P]: the prompt goes on after the tokens in front of it, the others move up."""
        count = torch.arange(self.length, dtype=positions.dtype, device=positions.device)[None]
        if isinstance(self.at, int):
            first, rest = positions[:, : self.at], positions[:, self.at :]
            start = first[:, -1:] + 1 if self.at else torch.zeros_like(positions[:, :1])
            return torch.cat([first, start + count, rest + self.length], dim=1)
        at = self.at.to(positions.device)[:, None]
        positions = positions.expand(at.shape[0], -1)
        columns = torch.arange(positions.shape[1], device=positions.device)[None]
        start = positions.gather(1, at - 1) + 1
        return self.into(torch.where(columns < at, positions, positions + self.length), start + count)


def _pick(source: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pick columns of each row: [B, S, ...] and column numbers [B, C] -> [B, C, ...]."""
    index = columns.reshape(*columns.shape, *(1,) * (source.dim() - 2))
    return source.gather(1, index.expand(*columns.shape, *source.shape[2:]))
