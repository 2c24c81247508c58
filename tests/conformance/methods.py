"""The adapter methods, as the checks see them.

A `Method` has the configuration string that a user would write and the `parts` that it is made of. The parts repeat in
our own words what the preset means (`adapters` 1.3.0 and the papers are the source), so that a wrong default in the runtime
fails a check. Where do I add a method? A row of `METHODS`; a new kind of part needs its plain-torch twin in ``reference/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Location = Literal["attention", "cross_attention", "output"]


@dataclass(frozen=True)
class Bottleneck:
    """x, r, norm  ->  norm(x + r), with an adapter of two projections inside."""

    planned_as: ClassVar[str] = "bottleneck"  # its name in the plan and in the registry
    locations: tuple[Location, ...]
    activation: Literal["relu", "swish"]
    norm_first: bool = False  # the adapter sees norm(x + r), not x
    parallel: bool = False  # the adapter sees r, and its output is added to x
    scaling: float = 1.0
    reduction_factor: int = 4


@dataclass(frozen=True)
class Prefix:
    """Keys and values in front of those of every attention core."""

    planned_as: ClassVar[str] = "prefix_tuning"
    length: int
    flat: bool  # the keys and values are the parameters; else they come out of an MLP with tanh
    bottleneck_size: int = 0


@dataclass(frozen=True)
class LoRA:
    """y = W x + b  ->  y + alpha / r * B A x."""

    planned_as: ClassVar[str] = "lora"
    r: int
    alpha: int
    attention: tuple[Literal["query", "key", "value"], ...] = ("query", "value")
    mlp_first: bool = False
    mlp_last: bool = False


Part = Bottleneck | Prefix | LoRA


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
LORA = LoRA(r=4, alpha=8)
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
        "lora_all",
        "lora[r=4,alpha=6,attn_matrices=['q','k','v'],intermediate_lora=True,output_lora=True]",
        (LORA_ALL,),
    ),
    Method("prefix+par_bn", "prefix_tuning[prefix_length=5,bottleneck_size=12]|par_bn", (PREFIX_MLP, PAR_BN)),
    Method("seq_bn+lora", "seq_bn[reduction_factor=4]|lora[r=4,alpha=8]", (SEQ_BN, LORA)),
)


def method(name: str) -> Method:
    """The row of `METHODS` with this name."""
    return next(entry for entry in METHODS if entry.name == name)
