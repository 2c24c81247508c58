"""Representation fine-tuning: learned edits of the hidden states at some positions (https://arxiv.org/abs/2404.03592)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from adapter_runtime.methods.common.activations import activation
from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.reft.config import ReftConfig
from adapter_runtime.methods.reft.orthonormal import OrthonormalRows, nearest_orthonormal


class EditShape(NamedTuple):
    """How many real tokens of a row are edited, at its start and at its end."""

    prefix: int
    suffix: int


class ReftUnit(nn.Module):
    """One edit: ``h + R^T (f(W h + b) - R h)``, without ``- R h`` in DiReFT.

    R has orthonormal rows in LoReFT. Dropout falls on the edited state as a whole, as in the reference implementation of the
    authors: the paper does not say.

    Shapes: B batch, P positions, H hidden, R rank.
    """

    def __init__(self, config: ReftConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.learned_source = nn.Linear(width, config.r)
        self.projection = (
            OrthonormalRows(width, config.r) if config.orthogonality else nn.Linear(width, config.r, bias=False)
        )
        self.non_linearity = None if config.non_linearity is None else activation(config.non_linearity)

    def rows(self) -> torch.Tensor:
        """[R, H]: the directions in which states are edited."""
        weight = self.projection.rows() if isinstance(self.projection, OrthonormalRows) else self.projection.weight
        assert isinstance(weight, torch.Tensor)
        return weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """What is added to `states` [B, P, H]."""
        source, rows = self.learned_source, self.rows()
        given = states.to(source.weight.dtype).flatten(0, 1)  # (BP, H)
        rows = rows.to(given.dtype)
        if self.non_linearity is None and self.config.subtract_projection:
            latent = nn.functional.linear(given, source.weight - rows, source.bias)
        else:
            latent = source(given)
            if self.non_linearity is not None:
                latent = self.non_linearity(latent)
            if self.config.subtract_projection:
                latent = latent - nn.functional.linear(given, rows)
        edit = (latent @ rows).view_as(states).to(states.dtype)
        if self.training and self.config.dropout > 0.0:
            return nn.functional.dropout(states + edit, self.config.dropout) - states
        return edit

    def average(self, units: Sequence[ReftUnit], weights: Sequence[float]) -> None:
        """Become the weighted sum of `units`; of orthonormal rows, the orthonormal rows nearest to it."""
        with torch.no_grad():
            for own, *others in zip(
                self.learned_source.parameters(), *(unit.learned_source.parameters() for unit in units), strict=True
            ):
                own.copy_(_weighted_sum(others, weights))
            rows = [unit.rows() for unit in units]
            if isinstance(self.projection, OrthonormalRows):
                self.projection.set_rows(nearest_orthonormal(rows, weights))
            else:
                self.projection.weight.copy_(_weighted_sum(rows, weights))


def _weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    return torch.stack([tensor * weight for tensor, weight in zip(tensors, weights, strict=True)]).sum(dim=0)


class Reft(nn.Module):
    """The edits of one adapter in one layer: a unit for the start of a row and one for its end, or one for both.

    Its type is its own: ``config.dtype`` may differ from that of the layer.

    Args:
        config: the options.
        width: H.

    Raises:
        InvalidConfigError: the non-linearity is unknown, or r is greater than H.
    """

    has_own_type = True

    def __init__(self, config: ReftConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.shape = EditShape(config.prefix_positions, config.suffix_positions)
        with seeded(config.init_weights_seed):
            self.units = nn.ModuleList(ReftUnit(config, width) for _ in range(1 if config.tied_weights else 2))

    def extra_repr(self) -> str:
        shown = f"r={self.config.r}, prefix_positions={self.shape[0]}, suffix_positions={self.shape[1]}"
        return f"{shown}, tied_weights=True" if self.config.tied_weights else shown

    def running_units(self) -> list[ReftUnit]:
        """The units that have positions to edit."""
        if len(self.units) == 1:
            return [self._unit(0)]
        return [self._unit(index) for index, count in enumerate(self.shape) if count > 0]

    def _unit(self, index: int) -> ReftUnit:
        unit = self.units[index]
        assert isinstance(unit, ReftUnit)
        return unit

    def forward(self, hidden: torch.Tensor, index: torch.Tensor, drop: torch.Tensor) -> torch.Tensor:
        """The hidden states with the edits.

        Args:
            hidden: [B, L, H].
            index: [B, P, H], the positions to edit: first those at the start, then those at the end.
            drop: [B, P, 1], True where a row has no such position.
        """
        states = hidden.gather(1, index)
        units = self.running_units()
        if len(units) == 1:
            edit = units[0](states)
        else:
            parts = torch.split(states, list(self.shape), dim=1)
            edit = torch.cat([unit(part) for unit, part in zip(units, parts, strict=True)], dim=1)
        # Added, not written: a position that is dropped may fall on one that is not.
        return hidden.scatter_add(1, index, edit.masked_fill(drop, 0.0))

    def average(self, others: Sequence[Reft], weights: Sequence[float]) -> None:
        """Become the weighted sum of `others`, which have the same options. Orthonormal projections stay orthonormal.

        Raises:
            InvalidConfigError: orthonormal projections cancel out.
        """
        for position in range(len(self.units)):
            self._unit(position).average([other._unit(position) for other in others], weights)
