"""Bottleneck adapters and their named variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapter_runtime.contract.config import AdapterConfig, check_choice
from adapter_runtime.errors import InvalidConfigError


@dataclass(frozen=True, eq=False)
class BnConfig(AdapterConfig):
    """A bottleneck after a sublayer: down-projection, non-linearity, up-projection (https://arxiv.org/abs/1902.00751).

    Raises:
        InvalidConfigError: options that exclude each other or have no meaning.
    """

    mh_adapter: bool  # an adapter after self-attention
    output_adapter: bool  # an adapter after the feed-forward block
    reduction_factor: (
        float | Mapping[str, float]
    )  # hidden size / bottleneck size; by layer, with "default" for the rest
    non_linearity: str  # a name of transformers' ACT2FN

    original_ln_before: bool = False  # run the residual addition and the norm of the layer before the adapter
    original_ln_after: bool = True  # run them after the adapter
    ln_before: bool = False  # a norm of the adapter's own at its start
    ln_after: bool = False  # and one at its end
    init_weights: str = "bert"  # "bert", "mam_adapter" (starts as zero) or "houlsby"
    init_weights_seed: int | None = None
    is_parallel: bool = False  # the adapter reads the input of the sublayer, and is added to its output; what is said
    # about norms and residuals in front of the adapter (original_ln_before, the two below) has no meaning then
    scaling: float | str = 1.0  # a factor, "learned" or "channel" (one learned factor per channel)
    use_gating: bool = False  # a learned gate, averaged over the sequence
    residual_before_ln: bool | str = True  # the adapter's residual: True = sublayer output, "post_add" = after the
    # addition of the layer's residual, False = after the layer's norm
    adapter_residual_before_ln: bool = False  # add that residual before (not after) the norm of `ln_after`
    inv_adapter: str | None = None  # an invertible adapter after the embeddings: "nice" or "glow"
    inv_adapter_reduction_factor: float | None = None
    cross_adapter: bool = False  # an adapter after cross-attention
    leave_out: Sequence[int] = field(default_factory=list)  # indices of layers without adapters
    dropout: float = 0.0
    phm_layer: bool = False  # hypercomplex multiplications instead of linear layers (compacter)
    phm_dim: int = 4  # number of Kronecker products in a sum; divides the widths of the layers
    factorized_phm_W: bool = True  # second factors of these products are themselves products, of rank `phm_rank`
    shared_W_phm: bool = False  # one set of second factors for all layers
    shared_phm_rule: bool = True  # one set of first factors (rules) for all layers
    factorized_phm_rule: bool = False  # rules are products of rank 1
    phm_c_init: str = "normal"  # how rules are drawn: "normal", with std `phm_init_range`, or "uniform" in [-1, 1]
    phm_init_range: float = 0.0001
    learn_phm: bool = True  # False: rules stay as they were drawn
    hypercomplex_nonlinearity: str = "glorot-uniform"  # how second factors are drawn; also "glorot-normal", "phm" (the
    # same), "normal" (std `phm_init_range`)
    phm_rank: int = 1
    phm_bias: bool = True
    stochastic_depth: float = 0.0  # probability to skip the adapter, per sample, in training

    def __post_init__(self) -> None:
        check_choice(self, "residual_before_ln", (True, False, "post_add"))
        check_choice(self, "init_weights", ("bert", "mam_adapter", "houlsby"))
        check_choice(self, "inv_adapter", (None, "nice", "glow"))
        check_choice(self, "phm_c_init", ("normal", "uniform"))
        check_choice(self, "hypercomplex_nonlinearity", ("phm", "glorot-normal", "glorot-uniform", "normal"))
        if isinstance(self.scaling, str):
            check_choice(self, "scaling", ("learned", "channel"))
        else:
            object.__setattr__(self, "scaling", float(self.scaling))  # `adapters` reads no integers
        if self.residual_before_ln == "post_add" and not self.original_ln_before:
            raise InvalidConfigError(
                'residual_before_ln="post_add" takes the sum before the norm of the layer, and so needs '
                "original_ln_before=True."
            )
        if isinstance(self.reduction_factor, Mapping):
            by_layer = {str(layer): factor for layer, factor in self.reduction_factor.items()}  # as JSON has them
            object.__setattr__(self, "reduction_factor", by_layer)
        self._check_numbers()

    def _check_numbers(self) -> None:
        factors = self.reduction_factor
        for factor in factors.values() if isinstance(factors, Mapping) else [factors]:
            if not factor > 0:
                raise InvalidConfigError(f"A reduction_factor is a positive number, not {factor!r}.")
        for option, rate in (("stochastic_depth", self.stochastic_depth), ("dropout", self.dropout)):
            if not 0.0 <= rate < 1.0:
                raise InvalidConfigError(f"{option} is {rate}, but must lie in [0, 1).")
        for option, size in (("phm_dim", self.phm_dim), ("phm_rank", self.phm_rank)):
            if not (isinstance(size, int) and size > 0):
                raise InvalidConfigError(f"{option} is {size!r}, but must be a positive integer.")

    def never_meets(self, other: AdapterConfig) -> bool:
        """See `AdapterConfig`. Layers that are left out may be those of the other."""
        if not isinstance(other, BnConfig):
            return False
        places = ("mh_adapter", "output_adapter", "cross_adapter")
        is_apart = not any(self[place] and other[place] for place in places)
        return is_apart or bool(self.leave_out or other.leave_out)

    def reduction_factor_of(self, layer: int) -> float:
        """The reduction factor in one layer, counted from 0.

        Raises:
            InvalidConfigError: the config has factors by layer, but none for this one.
        """
        factors = self.reduction_factor
        if not isinstance(factors, Mapping):
            return factors
        if str(layer) not in factors and "default" not in factors:
            raise InvalidConfigError(
                f'reduction_factor={dict(factors)} says nothing about layer {layer}. Add it, or a "default".'
            )
        return factors.get(str(layer), factors.get("default", 0.0))


@dataclass(frozen=True, eq=False)
class SeqBnConfig(BnConfig):
    """One adapter per layer, after the feed-forward block (https://arxiv.org/abs/2005.00247)."""

    original_ln_before: bool = True
    mh_adapter: bool = False
    output_adapter: bool = True
    non_linearity: str = "relu"
    reduction_factor: float | Mapping[str, float] = 16


@dataclass(frozen=True, eq=False)
class SeqBnInvConfig(SeqBnConfig):
    """`SeqBnConfig` with an invertible adapter after the embeddings (https://arxiv.org/abs/2005.00052)."""

    inv_adapter: str | None = "nice"
    inv_adapter_reduction_factor: float | None = 2


@dataclass(frozen=True, eq=False)
class DoubleSeqBnConfig(BnConfig):
    """Two adapters per layer, after attention and after the feed-forward block (https://arxiv.org/abs/1902.00751)."""

    mh_adapter: bool = True
    output_adapter: bool = True
    non_linearity: str = "swish"
    reduction_factor: float | Mapping[str, float] = 16


@dataclass(frozen=True, eq=False)
class DoubleSeqBnInvConfig(DoubleSeqBnConfig):
    """`DoubleSeqBnConfig` with an invertible adapter after the embeddings."""

    inv_adapter: str | None = "nice"
    inv_adapter_reduction_factor: float | None = 2


@dataclass(frozen=True, eq=False)
class ParBnConfig(BnConfig):
    """An adapter beside the feed-forward block (https://arxiv.org/abs/2110.04366)."""

    mh_adapter: bool = False
    output_adapter: bool = True
    non_linearity: str = "relu"
    reduction_factor: float | Mapping[str, float] = 2
    init_weights: str = "mam_adapter"
    is_parallel: bool = True
    scaling: float | str = 4.0


@dataclass(frozen=True, eq=False)
class CompacterConfig(DoubleSeqBnConfig):
    """Two adapters per layer of hypercomplex multiplications (https://arxiv.org/abs/2106.04647)."""

    phm_layer: bool = True
    reduction_factor: float | Mapping[str, float] = 32
    non_linearity: str = "gelu"


@dataclass(frozen=True, eq=False)
class CompacterPlusPlusConfig(SeqBnConfig):
    """One adapter per layer of hypercomplex multiplications (https://arxiv.org/abs/2106.04647)."""

    phm_layer: bool = True
    reduction_factor: float | Mapping[str, float] = 32
    non_linearity: str = "gelu"


@dataclass(frozen=True, eq=False)
class AdapterPlusConfig(BnConfig):
    """An adapter with a factor per channel, for vision models (https://arxiv.org/abs/2406.06820)."""

    original_ln_after: bool = False
    original_ln_before: bool = True
    residual_before_ln: bool | str = False
    stochastic_depth: float = 0.1
    init_weights: str = "houlsby"
    scaling: float | str = "channel"
    mh_adapter: bool = False
    output_adapter: bool = True
    reduction_factor: float | Mapping[str, float] = 96
    non_linearity: str = "gelu"


BnConfig.register(None)
