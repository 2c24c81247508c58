"""Prefix tuning and prompt tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter_runtime.configuration.base import AdapterConfig, check_choice


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


@dataclass(frozen=True, eq=False)
class PromptTuningConfig(AdapterConfig):
    """Learned embeddings in front of those of the tokens (https://arxiv.org/abs/2104.08691)."""

    architecture: str | None = "prompt_tuning"
    prompt_length: int = 10
    prompt_init: str = "random_uniform"
    prompt_init_text: str | None = None
    combine: str = "prefix"  # "prefix" or "prefix_after_bos"
    init_weights_seed: int | None = None
    random_uniform_scale: float = 0.5

    def __post_init__(self) -> None:
        check_choice(self, "prompt_init", ("random_uniform", "from_string"))
        check_choice(self, "combine", ("prefix", "prefix_after_bos"))


PrefixTuningConfig.register("prefix_tuning")
PromptTuningConfig.register("prompt_tuning")
