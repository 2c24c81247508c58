"""How a generated mixin says which module of an upstream layer plays which role.

A generated module states facts only, with the classes below; all behaviour is in this package. Every path is dotted and
starts at the layer ("attention.output.dense"); the empty path is the layer itself. The tool's own plan
(``adapter_codegen.model``) has the same shapes, so that rendering is a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionKind = Literal["self", "cross"]
BottleneckLocation = Literal["attention", "cross_attention", "output"]
Joining = Literal["", "upstream", "streams"]
StackForm = Literal[
    "", "packed", "length first", "joined", "followed", "gathered", "spread", "padded", "no tokens", "several", "other"
]


@dataclass(frozen=True)
class OutputOrder:
    """In which order a projection gives several of queries, keys and values: in each group of outputs, part after part.

    Sizes are expressions of attributes of the core's module, numbers, ``+ - * //``, and two names: `outputs`, how many the projection
    has, and `attended`, how many inputs the projection after the core has.
    """

    parts: str  # "qkv", "qvk", "kv", "qg" (g: gates): as they stand in a group
    sizes: tuple[str, ...]  # how many outputs of a group each of them has
    group: str = ""  # how many outputs a group has; "" = all are one group
    where: tuple[str, ...] = ()  # attributes of the core's module: it is so only where all of these are true
    unless: tuple[str, ...] = ()  # and none of these


@dataclass(frozen=True)
class AttentionRoles:
    """The projections around one attention core."""

    core: str  # the module in which keys and values meet queries
    kind: AttentionKind
    query: str = ""  # "" where there is no projection of its own
    query_alternatives: tuple[str, ...] = ()  # of which some layers have one in the place of `query`
    key: str = ""
    value: str = ""  # the same as `key` where one projection gives both
    value_beside: tuple[str, ...] = ()  # further ones, whose outputs stand beside those of `value` in each value
    fused: str = ""  # one projection that gives queries, keys and values together
    orders: tuple[OutputOrder, ...] = ()  # of the outputs of `fused`, or of `key` = `value`; () = not known
    gate: str = ""  # the same as `query` where that projection also gives gates of what is attended to
    gate_orders: tuple[OutputOrder, ...] = ()  # of the outputs of `query` = `gate`; () = not known
    output: str = ""  # the projection after the core
    # Width of a key head: an attribute of the core's module, or "outputs // num_heads" of the projection that gives the keys
    head_dim: str = ""
    value_head_dim: str = ""  # likewise for values, where their width differs
    # Upstream's classes that attend, where some layers have another one at `core`: these lack the attention. () = all have it
    core_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class BottleneckRole:
    """A module that holds bottleneck adapters: one that exists upstream, or a new child of the layer."""

    host: str  # "attention.output"; "*" stands for every element of a list: "ffn.*.output"
    location: BottleneckLocation
    # Attributes of the module around the host, as its constructor set them: the place is only where all of `where` are true
    where: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()  # and none of these
    # How what it gives joins the stream. "": it adds it; "upstream": upstream's own code does, with a scale of its own, say;
    # "streams": upstream mixes it into several streams, none of which is the one before the sublayer
    joins: Joining = ""
    # A module of the layer, which has another class in other layers: the place is only where it has one of `classes`. "": it is in all
    sublayer: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MLPRoles:
    """Projections into and out of the feed-forward block."""

    first: tuple[str, ...] = ()
    gate: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


@dataclass(frozen=True)
class MixerRoles:
    """Projections into and out of sublayers that mix positions without attention: state spaces, recurrences, convolutions."""

    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerRoles:
    """All roles in one layer."""

    attentions: tuple[AttentionRoles, ...] = ()
    bottlenecks: tuple[BottleneckRole, ...] = ()
    mlp: MLPRoles = MLPRoles()
    mixer: MixerRoles = MixerRoles()
    optional: tuple[str, ...] = ()  # beginnings of paths that some layers lack; any other missing path is an error
    turned: tuple[str, ...] = ()  # of projections that see batch and positions the other way round than the layer
    selected: tuple[str, ...] = ()  # of projections that are given some positions only, those of all rows in one


@dataclass(frozen=True)
class LayerStack:
    """A list of layers that the hidden states run through, as a path from the base model."""

    path: str  # "encoder.layer"; "*" stands for every element of a list: "encoder.groups.*.layers"
    shared: bool = False  # the same physical layer runs more than once
    # What the hidden states of its layers are. "": (batch, length, width); "packed": (length, width), or a batch of one, with the
    # positions of all examples in one row; "length first": (length, batch, width); "joined" and "followed": rows in which something
    # else stands in front of the tokens or behind them; "gathered": a position stands for several tokens; "spread": a token
    # stands at several positions; "padded": the forward put empty positions beside them; "no tokens": rows of something else than the tokens that the model reads; "several": tensors beside
    # each other; "other": of more dimensions
    form: StackForm = ""
    in_some: bool = (
        False  # of the elements that a "*" stands for, some hold no such list (convolutions between stages)
    )
    optional: str = (
        ""  # the beginning of the path that some models lack, by their config; "" = all have the whole path
    )
