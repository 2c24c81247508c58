"""Options of prefix tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter_runtime.contract.config import AdapterConfig


@dataclass(frozen=True, eq=False)
class PrefixTuningConfig(AdapterConfig):
    """Learned keys and values in front of those of every attention (https://arxiv.org/abs/2101.00190)."""

    architecture: str | None = "prefix_tuning"
    encoder_prefix: bool = True  # in the self-attention of the encoder of an encoder-decoder model
    cross_prefix: bool = True  # in cross-attention
    leave_out: Sequence[int] = field(default_factory=list)
    flat: bool = False  # the keys and values themselves are the parameters; otherwise an MLP computes them
    prefix_length: int = 30
    bottleneck_size: int = 512  # of the MLP
    non_linearity: str = "tanh"
    dropout: float = 0.0
    use_gating: bool = False
    shared_gating: bool = True  # one gate for keys and values
    init_weights_seed: int | None = None


PrefixTuningConfig.register("prefix_tuning")
