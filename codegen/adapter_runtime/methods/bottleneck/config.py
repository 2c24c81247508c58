"""Bottleneck adapters and their named variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adapter_runtime.contract.config import (
    AdapterConfig,
    check_choice,
    check_indices,
    check_numbers,
    check_rates,
    check_seed,
    check_whole,
    is_number,
)
from adapter_runtime.errors import InvalidConfigError


@dataclass(frozen=True, eq=False)
class BnConfig(AdapterConfig):
    """A bottleneck after a sublayer: down-projection, non-linearity, up-projection (https://arxiv.org/abs/1902.00751).

    Args:
        mh_adapter: an adapter after self-attention. Required.
        output_adapter: an adapter after the feed-forward block. Required.
        reduction_factor: width of the hidden states over that of the bottleneck; or one by index of the layer, with
            "default" for the rest. Required.
        non_linearity: between the projections; a name of transformers' ``ACT2FN``. Required.
        original_ln_before: run the residual addition and the norm of the layer before the adapter. Default: False.
        original_ln_after: run them after the adapter. Default: True.
        ln_before: a norm of the adapter's own at its start. Default: False.
        ln_after: a norm of the adapter's own at its end. Default: False.
        init_weights: how the weights are drawn: "bert", "mam_adapter" (the up-projection is zero) or "houlsby".
            Default: "bert".
        init_weights_seed: of a generator of its own for these draws; None = torch's. Default: None.
        is_parallel: the adapter reads the input of the sublayer, and is added to its output. What the options
            original_ln_before, residual_before_ln and adapter_residual_before_ln say has no meaning then. Default: False.
        scaling: factor of what the adapter gives; "learned" = one that is trained, "channel" = one per channel.
            Default: 1.0.
        use_gating: multiply by a learned gate that reads the input, averaged over the sequence. Default: False.
        residual_before_ln: what is added to the output of the adapter: True = the output of the sublayer,
            "post_add" = that after the addition of the layer's residual, False = that after the layer's norm. Default: True.
        adapter_residual_before_ln: add it before the norm of `ln_after`, not after that. Default: False.
        inv_adapter: an invertible adapter after the embeddings: "nice" or "glow"; None = none. Default: None.
        inv_adapter_reduction_factor: reduction factor of the networks inside it. Default: None.
        cross_adapter: an adapter after cross-attention. Default: False.
        leave_out: indices of layers that get no adapter. Default: [].
        dropout: probability of dropping an entry of what the adapter gives, in training. Default: 0.0.
        phm_layer: hypercomplex layers (sums of Kronecker products) in place of linear layers (Compacter). Default: False.
        phm_dim: number of Kronecker products in their sum; divides the widths of the layers. Default: 4.
        factorized_phm_W: the second factors of these products are themselves products, of rank `phm_rank`. Default: True.
        shared_W_phm: one set of second factors for all layers. Default: False.
        shared_phm_rule: one set of first factors (rules) for all layers. Default: True.
        factorized_phm_rule: rules are products of rank 1. Default: False.
        phm_c_init: how rules are drawn: "normal", with std `phm_init_range`, or "uniform" in [-1, 1]. Default: "normal".
        phm_init_range: standard deviation of these draws. Default: 0.0001.
        learn_phm: train the rules; False = they stay as they were drawn. Default: True.
        hypercomplex_nonlinearity: how second factors are drawn: "glorot-uniform", "glorot-normal", "phm" (the same as
            "glorot-normal") or "normal", with std `phm_init_range`. Default: "glorot-uniform".
        phm_rank: rank of the second factors, where they are products. Default: 1.
        phm_bias: hypercomplex layers have a bias. Default: True.
        stochastic_depth: probability of skipping the adapter, per sample, in training. Default: 0.0.

    Raises:
        InvalidConfigError: options that exclude each other or have no meaning.
    """

    mh_adapter: bool
    output_adapter: bool
    reduction_factor: float | Mapping[str, float]
    non_linearity: str

    original_ln_before: bool = False
    original_ln_after: bool = True
    ln_before: bool = False
    ln_after: bool = False
    init_weights: str = "bert"
    init_weights_seed: int | None = None
    is_parallel: bool = False
    scaling: float | str = 1.0
    use_gating: bool = False
    residual_before_ln: bool | str = True
    adapter_residual_before_ln: bool = False
    inv_adapter: str | None = None
    inv_adapter_reduction_factor: float | None = None
    cross_adapter: bool = False
    leave_out: Sequence[int] = field(default_factory=list)
    dropout: float = 0.0
    phm_layer: bool = False
    phm_dim: int = 4
    factorized_phm_W: bool = True
    shared_W_phm: bool = False
    shared_phm_rule: bool = True
    factorized_phm_rule: bool = False
    phm_c_init: str = "normal"
    phm_init_range: float = 0.0001
    learn_phm: bool = True
    hypercomplex_nonlinearity: str = "glorot-uniform"
    phm_rank: int = 1
    phm_bias: bool = True
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self, "residual_before_ln", (True, False, "post_add"))
        check_choice(self, "init_weights", ("bert", "mam_adapter", "houlsby"))
        check_choice(self, "inv_adapter", (None, "nice", "glow"))
        check_choice(self, "phm_c_init", ("normal", "uniform"))
        check_choice(self, "hypercomplex_nonlinearity", ("phm", "glorot-normal", "glorot-uniform", "normal"))
        if isinstance(self.scaling, str):
            check_choice(self, "scaling", ("learned", "channel"))
        else:
            check_numbers(self, "scaling")
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
            if not is_number(factor) or not factor > 0:
                raise InvalidConfigError(
                    f"{type(self).__name__}: reduction_factor is {factors!r}, but must be a positive number, or one by layer."
                )
        if self.inv_adapter is not None:
            check_numbers(self, "inv_adapter_reduction_factor", above=0.0)
        check_rates(self, "dropout", "stochastic_depth")
        check_whole(self, 1, "phm_dim", "phm_rank")
        check_numbers(self, "phm_init_range", least=0.0)
        check_indices(self, "leave_out")
        check_seed(self)

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
    """One adapter per layer, after the feed-forward block (https://arxiv.org/abs/2005.00247).

    Other defaults than those of `BnConfig`:
        original_ln_before: True
        mh_adapter: False
        output_adapter: True
        non_linearity: "relu"
        reduction_factor: 16
    """

    original_ln_before: bool = True
    mh_adapter: bool = False
    output_adapter: bool = True
    non_linearity: str = "relu"
    reduction_factor: float | Mapping[str, float] = 16


@dataclass(frozen=True, eq=False)
class SeqBnInvConfig(SeqBnConfig):
    """`SeqBnConfig` with an invertible adapter after the embeddings (https://arxiv.org/abs/2005.00052).

    Other defaults than those of `SeqBnConfig`:
        inv_adapter: "nice"
        inv_adapter_reduction_factor: 2
    """

    inv_adapter: str | None = "nice"
    inv_adapter_reduction_factor: float | None = 2


@dataclass(frozen=True, eq=False)
class DoubleSeqBnConfig(BnConfig):
    """Two adapters per layer, after attention and after the feed-forward block (https://arxiv.org/abs/1902.00751).

    Other defaults than those of `BnConfig`:
        mh_adapter: True
        output_adapter: True
        non_linearity: "swish"
        reduction_factor: 16
    """

    mh_adapter: bool = True
    output_adapter: bool = True
    non_linearity: str = "swish"
    reduction_factor: float | Mapping[str, float] = 16


@dataclass(frozen=True, eq=False)
class DoubleSeqBnInvConfig(DoubleSeqBnConfig):
    """`DoubleSeqBnConfig` with an invertible adapter after the embeddings.

    Other defaults than those of `DoubleSeqBnConfig`:
        inv_adapter: "nice"
        inv_adapter_reduction_factor: 2
    """

    inv_adapter: str | None = "nice"
    inv_adapter_reduction_factor: float | None = 2


@dataclass(frozen=True, eq=False)
class ParBnConfig(BnConfig):
    """An adapter beside the feed-forward block (https://arxiv.org/abs/2110.04366).

    Other defaults than those of `BnConfig`:
        mh_adapter: False
        output_adapter: True
        non_linearity: "relu"
        reduction_factor: 2
        init_weights: "mam_adapter"
        is_parallel: True
        scaling: 4.0
    """

    mh_adapter: bool = False
    output_adapter: bool = True
    non_linearity: str = "relu"
    reduction_factor: float | Mapping[str, float] = 2
    init_weights: str = "mam_adapter"
    is_parallel: bool = True
    scaling: float | str = 4.0


@dataclass(frozen=True, eq=False)
class CompacterConfig(DoubleSeqBnConfig):
    """Two adapters per layer, made of hypercomplex layers (https://arxiv.org/abs/2106.04647).

    Other defaults than those of `DoubleSeqBnConfig`:
        phm_layer: True
        reduction_factor: 32
        non_linearity: "gelu"
    """

    phm_layer: bool = True
    reduction_factor: float | Mapping[str, float] = 32
    non_linearity: str = "gelu"


@dataclass(frozen=True, eq=False)
class CompacterPlusPlusConfig(SeqBnConfig):
    """One adapter per layer, made of hypercomplex layers (https://arxiv.org/abs/2106.04647).

    Other defaults than those of `SeqBnConfig`:
        phm_layer: True
        reduction_factor: 32
        non_linearity: "gelu"
    """

    phm_layer: bool = True
    reduction_factor: float | Mapping[str, float] = 32
    non_linearity: str = "gelu"


@dataclass(frozen=True, eq=False)
class AdapterPlusConfig(BnConfig):
    """An adapter with a factor per channel, for vision models (https://arxiv.org/abs/2406.06820).

    Other defaults than those of `BnConfig`:
        original_ln_after: False
        original_ln_before: True
        residual_before_ln: False
        stochastic_depth: 0.1
        init_weights: "houlsby"
        scaling: "channel"
        mh_adapter: False
        output_adapter: True
        reduction_factor: 96
        non_linearity: "gelu"
    """

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
