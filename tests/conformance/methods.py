"""The adapter methods, as the checks see them.

A `Method` has the configuration string that a user would write and the `parts` that it is made of. The parts repeat in
our own words what the preset means (`adapters` 1.3.0 and the papers are the source), so that a wrong default in the runtime
fails a check. Where do I add a method? A row of `METHODS`; a new kind of part needs its plain-torch twin in ``reference/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

Location = Literal["attention", "cross_attention", "output"]


@dataclass(frozen=True)
class Bottleneck:
    """x, r, norm  ->  norm(x + r), with an adapter of two projections inside."""

    planned_as: ClassVar[str] = "bottleneck"  # its name in the plan and in the registry
    locations: tuple[Location, ...]
    activation: Literal["relu", "swish", "gelu"]
    norm_first: bool = False  # the adapter sees norm(x + r), not x
    parallel: bool = False  # the adapter sees r, and its output is added to x
    scaling: float = 1.0
    reduction_factor: int = 4
    hypercomplex: bool = False  # the projections are sums of Kronecker products, with one rule for all layers


@dataclass(frozen=True)
class Prefix:
    """Keys and values in front of those of every attention core."""

    planned_as: ClassVar[str] = "prefix_tuning"
    length: int
    flat: bool  # the keys and values are the parameters; else they come out of an MLP with tanh
    bottleneck_size: int = 0


Form = Literal["lora", "ia3", "dora", "vera", "dvora", "mtl", "own"]
# The weight (O, I) of a projection, and the tensors of an adapter there by their names -> what is added to the weight.
Update = Callable[[Tensor, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class LoRA:
    """y = W x + b  ->  y + alpha / r * B A x, or what a relative does at the same projections."""

    planned_as: ClassVar[str] = "lora"
    r: int
    alpha: int
    attention: tuple[Literal["query", "key", "value"], ...] = ("query", "value")
    mlp_first: bool = False
    mlp_last: bool = False
    mixer_first: bool = False
    mixer_last: bool = False
    form: Form = "lora"
    tensors: tuple[str, ...] = ()  # of a relative of one's own
    update: Update | None = None  # and what they mean

    @property
    def adds(self) -> bool:
        """A low-rank update is added, and nothing else is done to the output."""
        return self.form in ("lora", "vera", "mtl", "own")


@dataclass(frozen=True)
class ReFT:
    """h + R^T (W h + b - R h) at the first and the last tokens of a row, after each layer."""

    planned_as: ClassVar[str] = "reft"
    prefix: int
    suffix: int
    subtracts: bool = True  # - R h
    orthonormal: bool = False  # R has orthonormal rows, made from the tensors of a checkpoint


@dataclass(frozen=True)
class Invertible:
    """NICE (https://arxiv.org/abs/1410.8516) after the embeddings, and its inverse before a tied projection to them."""

    planned_as: ClassVar[str] = "invertible"


@dataclass(frozen=True)
class Prompt:
    """Learned embeddings in front of those of the tokens; outputs are those of the tokens."""

    planned_as: ClassVar[str] = "prompt_tuning"
    length: int


Part = Bottleneck | Prefix | LoRA | ReFT | Invertible | Prompt


def positions_in_front(parts: Iterable[Part]) -> int:
    """How many positions stand in front of the tokens: those of prompts."""
    return sum(part.length for part in parts if isinstance(part, Prompt))


@dataclass(frozen=True)
class Method:
    name: str  # row label
    config: str  # what is given to add_adapter
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return self.name

    def has(self, kind: type[Part]) -> bool:
        return any(isinstance(part, kind) for part in self.parts)

    @property
    def only(self) -> Part | None:
        """The part of a method that is made of one."""
        return self.parts[0] if len(self.parts) == 1 else None


SEQ_BN = Bottleneck(("output",), "relu", norm_first=True)
DOUBLE_SEQ_BN = Bottleneck(("attention", "output"), "swish")
CROSS_BN = Bottleneck(("attention", "cross_attention", "output"), "swish")
PAR_BN = Bottleneck(("output",), "relu", parallel=True, scaling=4.0, reduction_factor=2)
PREFIX_FLAT = Prefix(length=5, flat=True)
PREFIX_MLP = Prefix(length=5, flat=False, bottleneck_size=12)
COMPACTER = Bottleneck(("attention", "output"), "gelu", hypercomplex=True)
LORA = LoRA(r=4, alpha=8)
IA3 = LoRA(r=1, alpha=1, attention=("key", "value"), mlp_first=True, form="ia3")
LORA_ALL = LoRA(r=4, alpha=6, attention=("query", "key", "value"), mlp_first=True, mlp_last=True)

METHODS: tuple[Method, ...] = (
    Method("seq_bn", "seq_bn[reduction_factor=4]", (SEQ_BN,)),
    Method("double_seq_bn", "double_seq_bn[reduction_factor=4]", (DOUBLE_SEQ_BN,)),
    Method("cross_bn", "double_seq_bn[reduction_factor=4,cross_adapter=True]", (CROSS_BN,)),
    Method("par_bn", "par_bn", (PAR_BN,)),
    Method("prefix_tuning_flat", "prefix_tuning_flat[prefix_length=5]", (PREFIX_FLAT,)),
    Method("prefix_tuning", "prefix_tuning[prefix_length=5,bottleneck_size=12]", (PREFIX_MLP,)),
    Method("lora", "lora[r=4,alpha=8]", (LORA,)),
    Method(
        "lora_mlp",
        "lora[r=4,alpha=6,selfattn_lora=False,intermediate_lora=True,output_lora=True]",
        (LoRA(r=4, alpha=6, attention=(), mlp_first=True, mlp_last=True),),
    ),
    Method(
        "lora_mlp_last",
        "lora[r=4,alpha=6,selfattn_lora=False,output_lora=True]",
        (LoRA(r=4, alpha=6, attention=(), mlp_last=True),),
    ),
    Method("lora_query", "lora[r=4,alpha=8,attn_matrices=['q']]", (LoRA(r=4, alpha=8, attention=("query",)),)),
    Method("lora_value", "lora[r=4,alpha=8,attn_matrices=['v']]", (LoRA(r=4, alpha=8, attention=("value",)),)),
    Method(
        "lora_mixer",
        "lora[r=4,alpha=6,selfattn_lora=False,mixer_lora=True]",
        (LoRA(r=4, alpha=6, attention=(), mixer_first=True),),
    ),
    Method(
        "lora_mixer_last",
        "lora[r=4,alpha=6,selfattn_lora=False,mixer_lora=True,mixer_output_lora=True]",
        (LoRA(r=4, alpha=6, attention=(), mixer_first=True, mixer_last=True),),
    ),
    Method(
        "lora_all",
        "lora[r=4,alpha=6,attn_matrices=['q','k','v'],intermediate_lora=True,output_lora=True]",
        (LORA_ALL,),
    ),
    Method("compacter", "compacter[reduction_factor=4]", (COMPACTER,)),
    Method("seq_bn_inv", "seq_bn_inv[reduction_factor=4]", (SEQ_BN, Invertible())),
    Method(
        "inv",
        "seq_bn[output_adapter=False,inv_adapter='nice',inv_adapter_reduction_factor=2]",
        (Invertible(),),
    ),
    Method("ia3", "ia3", (IA3,)),
    Method("dora", "dora[r=4,alpha=8]", (LoRA(r=4, alpha=8, form="dora"),)),
    Method("vera", "vera[r=4,alpha=8]", (LoRA(r=4, alpha=8, form="vera"),)),
    Method("dvora", "dvora[r=4,alpha=8]", (LoRA(r=4, alpha=8, form="dvora"),)),
    Method("mtl_lora", "mtl_lora[r=4,alpha=8,n_up_projection=2]", (LoRA(r=4, alpha=8, form="mtl"),)),
    Method("loreft", "loreft[r=2]", (ReFT(3, 0, orthonormal=True),)),
    Method("noreft", "noreft[r=2,prefix_positions=2,suffix_positions=1]", (ReFT(2, 1),)),
    Method("direft", "direft[r=2]", (ReFT(3, 0, subtracts=False),)),
    Method("prompt_tuning", "prompt_tuning[prompt_length=5]", (Prompt(length=5),)),
    Method("prefix+par_bn", "prefix_tuning[prefix_length=5,bottleneck_size=12]|par_bn", (PREFIX_MLP, PAR_BN)),
    Method("seq_bn+lora", "seq_bn[reduction_factor=4]|lora[r=4,alpha=8]", (SEQ_BN, LORA)),
)

# One method of each family, which shows the most of it: what a run over many models tries.
FAMILIES: Mapping[str, str] = {
    "bottleneck": "double_seq_bn",
    "prefix_tuning": "prefix_tuning_flat",
    "lora": "lora",
    "reft": "loreft",
    "prompt_tuning": "prompt_tuning",
    "invertible": "inv",
}
# What is tried in its place on a model that has no place for it, or where it is not known: the first that fits.
OTHERWISE: Mapping[str, tuple[str, ...]] = {
    "lora": ("lora_mlp", "lora_mlp_last", "lora_query", "lora_value", "lora_mixer")
}


def method(name: str) -> Method:
    """The row of `METHODS` with this name."""
    return next(entry for entry in METHODS if entry.name == name)
