"""Representation fine-tuning."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adapter_runtime.contract.config import AdapterConfig, check_indices, check_rates, check_seed, check_whole
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ReftConfig(AdapterConfig):
    """Low-rank edits of the hidden states at some positions (https://arxiv.org/abs/2404.03592).

    Args:
        layers: "all", or the indices of the layers whose outputs are edited. Required.
        prefix_positions: how many real tokens are edited at the start of a row. Required.
        suffix_positions: how many at its end; in a row too short for both, these come first. Required.
        r: rank of an edit: the number of directions in which states are changed. Required.
        orthogonality: keep these directions orthonormal. Required.
        architecture: by which files of such adapters are recognised. Default: "reft".
        tied_weights: the same edit at the start and at the end. Default: False.
        subtract_projection: subtract the projection of the states onto these directions; False is DiReFT. Files of
            `adapters` do not say it. Default: True.
        dropout: probability of dropping an entry of an edited state, in training. Default: 0.05.
        non_linearity: of the learned projection W h + b; a name of transformers' ``ACT2FN``, None = none. Default: None.
        dtype: of the parameters: "float32", "float64", "float16" or "bfloat16"; None = that of the layer. Default: None.
        output_reft: edit the outputs of layers at all. Default: True.
        init_weights_seed: of a generator of its own for the first values; None = torch's. Default: None.

    Raises:
        InvalidConfigError: no position would be edited, or an option has no meaning.
    """

    layers: str | Sequence[int]
    prefix_positions: int
    suffix_positions: int
    r: int
    orthogonality: bool
    architecture: str | None = "reft"
    tied_weights: bool = False
    subtract_projection: bool = True
    dropout: float = 0.05
    non_linearity: str | None = None
    dtype: str | None = None
    output_reft: bool = True
    init_weights_seed: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, 0, "prefix_positions", "suffix_positions")
        if self.prefix_positions + self.suffix_positions == 0:
            raise InvalidConfigError(
                f"{type(self).__name__} edits {self.prefix_positions} positions at the start and "
                f"{self.suffix_positions} at the end. One of both must be positive."
            )
        check_whole(self, 1, "r")
        check_rates(self, "dropout")
        check_seed(self)
        if isinstance(self.layers, str) and self.layers != "all":
            raise InvalidConfigError(
                f'{type(self).__name__}: layers is {self.layers!r}, but must be "all" or a list of indices.'
            )
        if not isinstance(self.layers, str):
            check_indices(self, "layers")
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise InvalidConfigError(
                f"{type(self).__name__}: dtype is {self.dtype!r}, but must be one of {', '.join(_DTYPES)}."
            )

    def is_in(self, layer: int) -> bool:
        """Whether the layer with this index gets an edit."""
        return self.output_reft and (self.layers == "all" or layer in self.layers)

    @classmethod
    def _from_options(cls, options: Mapping[str, Json]) -> AdapterConfig:
        if not options.get("orthogonality", True) and "subtract_projection" not in options:
            logger.warning(
                "This ReFT config may be NoReFT or DiReFT: `adapters` writes the same for both. It is read as NoReFT. For "
                'DiReFT, say so: load_adapter(..., config={"subtract_projection": False}).'
            )
        return super()._from_options(options)


_DTYPES = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class LoReftConfig(ReftConfig):
    """ReFT with an orthonormal projection.

    Other defaults than those of `ReftConfig`:
        layers: "all"
        prefix_positions: 3
        suffix_positions: 0
        r: 1
        orthogonality: True
    """

    layers: str | Sequence[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = True


@dataclass(frozen=True, eq=False)
class NoReftConfig(ReftConfig):
    """ReFT with a projection that is not kept orthonormal.

    Other defaults than those of `ReftConfig`:
        layers: "all"
        prefix_positions: 3
        suffix_positions: 0
        r: 1
        orthogonality: False
    """

    layers: str | Sequence[int] = "all"
    prefix_positions: int = 3
    suffix_positions: int = 0
    r: int = 1
    orthogonality: bool = False


@dataclass(frozen=True, eq=False)
class DiReftConfig(NoReftConfig):
    """`NoReftConfig` that does not subtract the projected state.

    Other defaults than those of `NoReftConfig`:
        subtract_projection: False
    """

    subtract_projection: bool = False


ReftConfig.register("reft")
