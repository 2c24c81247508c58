"""Options of prefix tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter_runtime.contract.config import AdapterConfig, check_indices, check_rates, check_seed, check_whole


@dataclass(frozen=True, eq=False)
class PrefixTuningConfig(AdapterConfig):
    """Learned keys and values in front of those of every attention (https://arxiv.org/abs/2101.00190).

    Args:
        architecture: by which files of such adapters are recognised. Default: "prefix_tuning".
        encoder_prefix: also in the self-attention of the encoder of an encoder-decoder model. Default: True.
        cross_prefix: also in cross-attention. Default: True.
        leave_out: indices of layers that get no prefix. Default: [].
        flat: the keys and values themselves are the parameters; otherwise an MLP computes them. Default: False.
        prefix_length: number of positions. Default: 30.
        bottleneck_size: hidden width of the MLP. Default: 512.
        non_linearity: of the MLP; a name of transformers' ``ACT2FN``. Default: "tanh".
        dropout: probability of dropping an entry of keys and values, in training. Default: 0.0.
        use_gating: multiply keys and values by a learned gate that reads the hidden states. Default: False.
        shared_gating: one gate for keys and values; otherwise one for each. Default: True.
        init_weights_seed: of a generator of its own for the first values; None = torch's. Default: None.

    Raises:
        InvalidConfigError: options that have no meaning.
    """

    architecture: str | None = "prefix_tuning"
    encoder_prefix: bool = True
    cross_prefix: bool = True
    leave_out: Sequence[int] = field(default_factory=list)
    flat: bool = False
    prefix_length: int = 30
    bottleneck_size: int = 512
    non_linearity: str = "tanh"
    dropout: float = 0.0
    use_gating: bool = False
    shared_gating: bool = True
    init_weights_seed: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, 1, "prefix_length")
        if not self.flat:  # else nothing reads it
            check_whole(self, 1, "bottleneck_size")
        check_rates(self, "dropout")
        check_indices(self, "leave_out")
        check_seed(self)


PrefixTuningConfig.register("prefix_tuning")
