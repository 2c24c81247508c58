"""Low-rank adaptation and the methods that share its places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter_runtime.configuration.base import AdapterConfig, check_choice
from adapter_runtime.errors import InvalidConfigError


@dataclass(frozen=True, eq=False)
class LoRAConfig(AdapterConfig):
    """A low-rank update of projections: ``W x + alpha / r * B A x`` (https://arxiv.org/abs/2106.09685).

    Raises:
        InvalidConfigError: options that have no meaning.
    """

    architecture: str | None = "lora"
    selfattn_lora: bool = True  # in the projections of attention that `attn_matrices` names
    intermediate_lora: bool = False  # in the first projection of the feed-forward block
    output_lora: bool = False  # in its last projection
    leave_out: Sequence[int] = field(default_factory=list)
    r: int = 8
    alpha: float = 8
    dropout: float = 0.0
    attn_matrices: Sequence[str] = field(default_factory=lambda: ["q", "v"])  # of "q", "k", "v", "o"
    composition_mode: str = "add"  # "add" a low-rank update, or "scale" the output by a vector (r = 1)
    init_weights: str = "lora"
    init_weights_seed: int | None = None
    use_gating: bool = False
    use_dora: bool = False
    vera_d: float | None = None
    vera_b: float | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_choice(self, "composition_mode", ("add", "scale"))
        check_choice(self, "init_weights", ("lora", "bert", "ia3", "vera"))
        unknown = set(self.attn_matrices) - {"q", "k", "v", "o"}
        if unknown:
            raise InvalidConfigError(f"attn_matrices names {sorted(unknown)}, but must be some of 'q', 'k', 'v', 'o'.")
        if self.r < 1:
            raise InvalidConfigError(f"The rank r is {self.r}, but must be at least 1.")
        if self.composition_mode == "scale" and self.r != 1:
            raise InvalidConfigError(f'composition_mode="scale" needs r=1, not r={self.r}.')


@dataclass(frozen=True, eq=False)
class IA3Config(LoRAConfig):
    """Learned factors for keys, values and the feed-forward block (https://arxiv.org/abs/2205.05638)."""

    selfattn_lora: bool = True
    intermediate_lora: bool = True
    output_lora: bool = False
    r: int = 1
    alpha: float = 1
    attn_matrices: Sequence[str] = field(default_factory=lambda: ["k", "v"])
    composition_mode: str = "scale"
    init_weights: str = "ia3"


@dataclass(frozen=True, eq=False)
class DoRAConfig(LoRAConfig):
    """LoRA of the direction of weights, with learned magnitudes (https://arxiv.org/abs/2402.09353)."""

    use_dora: bool = True


@dataclass(frozen=True, eq=False)
class VeraConfig(LoRAConfig):
    """LoRA with random matrices that all layers share and learned factors (https://arxiv.org/abs/2310.11454)."""

    init_weights: str = "vera"
    vera_d: float | None = 0.1
    vera_b: float | None = 0.0


@dataclass(frozen=True, eq=False)
class DvoRAConfig(LoRAConfig):
    """DoRA whose low-rank part is that of VeRA (https://arxiv.org/abs/2402.09353)."""

    init_weights: str = "vera"
    use_dora: bool = True
    vera_d: float | None = 0.1
    vera_b: float | None = 0.0


@dataclass(frozen=True, eq=False)
class MTLLoRAConfig(LoRAConfig):
    """LoRA for several tasks that share parts (https://arxiv.org/abs/2410.09437)."""

    architecture: str | None = "mtl_lora"
    n_up_projection: int = 1
    task_specific_matrix_type: str = "singular_values"  # or "linear"
    weights_sharpness: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "task_specific_matrix_type", ("singular_values", "linear"))


LoRAConfig.register("lora")
MTLLoRAConfig.register("mtl_lora")
