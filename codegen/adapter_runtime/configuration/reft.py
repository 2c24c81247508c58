"""Representation fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapter_runtime.configuration.base import AdapterConfig


@dataclass(frozen=True, eq=False)
class ReftConfig(AdapterConfig):
    """Low-rank edits of the hidden states at some positions (https://arxiv.org/abs/2404.03592)."""

    layers: str | Sequence[int]  # "all" or indices
    prefix_positions: int  # edited at the start of the sequence
    suffix_positions: int  # and at its end
    r: int
    orthogonality: bool  # keep the rows of the projection orthonormal
    architecture: str | None = "reft"
    tied_weights: bool = False  # the same edit at the start and at the end
    subtract_projection: bool = True
    dropout: float = 0.05
    non_linearity: str | None = None
    dtype: str | None = None
    output_reft: bool = True
    init_weights_seed: int | None = None


@dataclass(frozen=True, eq=False)
class LoReftConfig(ReftConfig):
    """ReFT with an orthonormal projection."""

    layers: str | Sequence[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = True


@dataclass(frozen=True, eq=False)
class NoReftConfig(ReftConfig):
    """ReFT with a projection that is not kept orthonormal."""

    layers: str | Sequence[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = False


@dataclass(frozen=True, eq=False)
class DiReftConfig(NoReftConfig):
    """`NoReftConfig` that does not subtract the projected state."""

    subtract_projection: bool = False


ReftConfig.register("reft")
