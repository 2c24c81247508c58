"""Low-rank adaptation and the methods that share its places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from adapter_runtime.contract.config import (
    AdapterConfig,
    check_choice,
    check_indices,
    check_numbers,
    check_rates,
    check_seed,
    check_whole,
)
from adapter_runtime.errors import InvalidConfigError


@dataclass(frozen=True, eq=False)
class LoRAConfig(AdapterConfig):
    """A low-rank update of projections: ``W x + alpha / r * B A x`` (https://arxiv.org/abs/2106.09685).

    Args:
        architecture: by which files of such adapters are recognised. Default: "lora".
        selfattn_lora: adapt the projections of attention that `attn_matrices` names. Default: True.
        intermediate_lora: adapt the first projection of the feed-forward block. Default: False.
        output_lora: adapt its last projection. Default: False.
        leave_out: indices of layers that get no adapter. Default: [].
        r: the rank, which is the number of rows of A and of columns of B. Default: 8.
        alpha: the update is multiplied by alpha / r. Default: 8.
        dropout: probability of dropping an entry of the input of A, in training. Default: 0.0.
        attn_matrices: which projections of attention: of "q", "k", "v" and "o", and "g" for gates of what is attended to, where
            one projection gives them and the queries (Qwen3-Next). Default: ["q", "v"].
        composition_mode: "add" a low-rank update, or "scale" the output by a vector (IA3, with r = 1). Default: "add".
        init_weights: how A and B are drawn: "lora": A random and B zero; "bert": both normal; "ia3": ones; "vera": both
            random. Default: "lora".
        init_weights_seed: of a generator of its own for these draws; None = torch's. Default: None.
        use_gating: a gate that reads the input takes the place of alpha / r. Default: False.
        use_dora: learn the magnitudes of the rows of weights too (DoRA). Default: False.
        vera_d: first value of VeRA's vector between its shared matrices; with `vera_b`, or neither. Default: None.
        vera_b: first value of the vector after them. Default: None.
        dtype: of the parameters, as torch calls it ("float32"); None = that of the projection. Default: None.
        gate_lora: adapt the projection that gates the first one of the feed-forward block. Default: False.
        mixer_lora: adapt the projections by which a sublayer that mixes positions without attention reads the stream: those of a
            state space (Mamba's in_proj), a recurrence, a convolution. Default: False.
        mixer_output_lora: adapt the projection of what such a sublayer gives, where that is a module that runs: kernels of some
            models (Mamba) compute with its weight. Default: False.
        dora_form: "paper", or "adapters": norms of W + B A whatever alpha is, with gradients, and the bias rescaled too.
            Files of `adapters` 1.3.0 are read with the latter. Default: "paper".
        vera_dense: full matrices in the place of VeRA's two vectors; files of `adapters` 1.3.0 are read with that.
            Default: False.

    Raises:
        InvalidConfigError: options that have no meaning.
    """

    architecture: str | None = "lora"
    selfattn_lora: bool = True
    intermediate_lora: bool = False
    output_lora: bool = False
    leave_out: Sequence[int] = field(default_factory=list)
    r: int = 8
    alpha: float = 8
    dropout: float = 0.0
    attn_matrices: Sequence[str] = field(default_factory=lambda: ["q", "v"])
    composition_mode: str = "add"
    init_weights: str = "lora"
    init_weights_seed: int | None = None
    use_gating: bool = False
    use_dora: bool = False
    vera_d: float | None = None
    vera_b: float | None = None
    dtype: str | None = None
    gate_lora: bool = False
    mixer_lora: bool = False
    mixer_output_lora: bool = False

    dora_form: str = "paper"
    vera_dense: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "composition_mode", ("add", "scale"))
        check_choice(self, "init_weights", ("lora", "bert", "ia3", "vera"))
        check_choice(self, "dora_form", ("paper", "adapters"))
        unknown = set(self.attn_matrices) - {"q", "k", "v", "o", "g"}
        if unknown:
            raise InvalidConfigError(
                f"attn_matrices names {sorted(unknown)}, but must be some of 'q', 'k', 'v', 'o', 'g'."
            )
        check_whole(self, 1, "r")
        check_numbers(self, "alpha", *(name for name in ("vera_d", "vera_b") if self[name] is not None))
        check_rates(self, "dropout")
        check_indices(self, "leave_out")
        check_seed(self)
        self._check_scale()
        self._check_vera()

    def _check_scale(self) -> None:
        """Raise for options that a factor per output does not have."""
        if self.composition_mode != "scale":
            return
        if self.r != 1:
            raise InvalidConfigError(f'composition_mode="scale" needs r=1, not r={self.r}.')
        unused = {
            "use_dora": self.use_dora,
            "vera_d": self.vera_d is not None,
            "dropout": self.dropout > 0.0,
            'init_weights="vera"': self.init_weights == "vera",
            f"architecture={self.architecture!r}": self.architecture != "lora",
        }
        for option, is_given in unused.items():
            if is_given:
                raise InvalidConfigError(f'composition_mode="scale" cannot be combined with {option}.')

    def _check_vera(self) -> None:
        """Raise where options of VeRA contradict each other."""
        if (self.vera_d is None) != (self.vera_b is None):
            raise InvalidConfigError(
                f"VeRA needs vera_d and vera_b, but they are {self.vera_d!r} and {self.vera_b!r}. Give both or neither."
            )
        if self.vera_d is not None and self.init_weights == "lora":
            raise InvalidConfigError(
                'init_weights="lora" starts with a zero matrix, and VeRA never trains its matrices. Use init_weights="vera".'
            )
        if self.vera_d is None and self.vera_dense:
            raise InvalidConfigError("vera_dense=True is an option of VeRA, which vera_d and vera_b ask for.")


@dataclass(frozen=True, eq=False)
class IA3Config(LoRAConfig):
    """Learned factors for keys, values and the feed-forward block (https://arxiv.org/abs/2205.05638).

    Other defaults than those of `LoRAConfig`:
        selfattn_lora: True
        intermediate_lora: True
        output_lora: False
        r: 1
        alpha: 1
        attn_matrices: ["k", "v"]
        composition_mode: "scale"
        init_weights: "ia3"
    """

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
    """LoRA of the direction of weights, with learned magnitudes (https://arxiv.org/abs/2402.09353).

    Other defaults than those of `LoRAConfig`:
        use_dora: True
    """

    use_dora: bool = True


@dataclass(frozen=True, eq=False)
class VeraConfig(LoRAConfig):
    """LoRA with random matrices that all layers share and learned factors (https://arxiv.org/abs/2310.11454).

    Other defaults than those of `LoRAConfig`:
        init_weights: "vera"
        vera_d: 0.1
        vera_b: 0.0
    """

    init_weights: str = "vera"
    vera_d: float | None = 0.1
    vera_b: float | None = 0.0


@dataclass(frozen=True, eq=False)
class DvoRAConfig(LoRAConfig):
    """DoRA whose low-rank part is that of VeRA (https://arxiv.org/abs/2402.09353).

    Other defaults than those of `LoRAConfig`:
        init_weights: "vera"
        use_dora: True
        vera_d: 0.1
        vera_b: 0.0
    """

    init_weights: str = "vera"
    use_dora: bool = True
    vera_d: float | None = 0.1
    vera_b: float | None = 0.0


class MultiTaskConfig(AdapterConfig):
    """Base of configs of adapters that can share parameters with those of other tasks."""


@dataclass(frozen=True, eq=False)
class MTLLoRAConfig(LoRAConfig, MultiTaskConfig):
    """LoRA for several tasks that share parts (https://arxiv.org/abs/2410.09437). All other options: `LoRAConfig`.

    Args:
        architecture: by which files of such adapters are recognised. Default: "mtl_lora".
        n_up_projection: how many up-projections are summed, with learned weights. Default: 1.
        task_specific_matrix_type: the matrix of a task between A and B: "singular_values" = a diagonal one, or "linear" = a
            full one. Default: "singular_values".
        weights_sharpness: temperature of the softmax over these weights: the smaller, the nearer to one up-projection alone.
            Default: 0.05.

    Raises:
        InvalidConfigError: options that have no meaning.
    """

    architecture: str | None = "mtl_lora"
    n_up_projection: int = 1
    task_specific_matrix_type: str = "singular_values"
    weights_sharpness: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "task_specific_matrix_type", ("singular_values", "linear"))
        check_whole(self, 1, "n_up_projection")
        check_numbers(self, "weights_sharpness", above=0.0)
        if self.vera_d is not None:
            raise InvalidConfigError(
                "MTL-LoRA has matrices of its own and cannot be combined with VeRA (vera_d, vera_b)."
            )


LoRAConfig.register("lora")
MTLLoRAConfig.register("mtl_lora")
