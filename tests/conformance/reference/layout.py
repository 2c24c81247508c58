"""Which module of a model plays which role, as paths from the model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.contract.paths import expanded
from adapter_runtime.contract.registry import registered
from adapter_runtime.roles import AttentionRoles, LayerRoles, OutputOrder


@dataclass(frozen=True)
class Attention:
    """One attention core of one layer. Paths start at the model."""

    layer: str
    core: str
    kind: str  # "self", "cross"
    query: str
    key: str
    value: str
    fused: str
    output: str
    in_encoder: bool  # of an encoder-decoder
    spans: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # outputs of the projection that gives several: those that are "query", "key", "value"
    order: tuple[int, ...] = ()  # the outputs that `spans` counts, where they come in groups; () = as they are
    lacks_value: bool = False  # other layers have a projection of values, this one has none
    tower: str = (
        ""  # model type of the model that holds it, where attentions of its kind are in models of several types
    )
    gate: str = ""  # as `query`, where that projection gives gates too
    gate_spans: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # those of its outputs that are "query", "gate"
    gate_order: tuple[int, ...] = ()  # the outputs that `gate_spans` counts
    part: str = ""  # path of the part that holds it
    value_beside: tuple[str, ...] = ()  # projections whose outputs stand beside those of `value`

    @property
    def shares_projection(self) -> bool:
        """One projection gives keys and values."""
        return bool(self.key) and self.key == self.value


@dataclass(frozen=True)
class Layer:
    path: str
    attentions: tuple[Attention, ...]
    hosts: tuple[tuple[str, str], ...]  # location, and path of the module that holds the bottlenecks
    mlp_first: tuple[str, ...]
    mlp_last: tuple[str, ...]
    form: str = ""  # of its hidden states, as it is stated; "" = rows of positions
    part: str = (
        ""  # path of what holds its layers and prefixes: the base model, or a model in it that is a part of the whole
    )

    mlp_gate: tuple[str, ...] = ()
    mixer_first: tuple[str, ...] = ()  # of what mixes positions without attention
    mixer_last: tuple[str, ...] = ()
    is_left_out: bool = (
        False  # of bottlenecks, by the statement of its part; others of the model take them. It has no hosts then
    )

    @property
    def has_rows(self) -> bool:
        """Whether its hidden states are rows of tokens, or of something else, in which ReFT edits the first and the last."""
        return self.form in ("", "followed", "no tokens")


@dataclass(frozen=True)
class Layout:
    layers: tuple[Layer, ...]
    base: str  # path of the base model; "" = the model itself
    embeddings: str = ""  # path of the module after which prompts stand
    entry: str = (
        ""  # of that after which invertible adapters stand: the same one, or a table where more is added to tokens
    )
    keeper: str = ""  # path of what they belong to: as `front`
    reader: str = (
        ""  # path of what embeds the tokens, or is given embeddings: it, or the decoder that OPT's head calls past it
    )
    token_embeddings: str = ""
    front: str = (
        ""  # path of what the embeddings belong to: the encoder that embeds the tokens, or what embeds them without one
    )
    text: str = ""  # path of the part that embeds the tokens: the base model, where that is not made of several
    is_fed: bool = False  # the whole gives that part embeddings, not tokens, as `as_called` saw it
    ones_are_none: bool = True  # and so that a mask of ones means to that part what none means
    prefix_shapes: Mapping[str, tuple[int, int, int]] = field(
        default_factory=dict
    )  # core -> of its prefix, where one is
    without_prefixes: frozenset[str] = frozenset()  # parts of a whole, whose own statement is that they take none
    sites: Any = None  # where bottlenecks stand in upstream's forward, as ``bottleneck.sites_of`` found it

    @property
    def embeds_tokens(self) -> bool:
        """Nothing but the table of tokens stands at one place: what is added to them is added by the model's forward."""
        return bool(self.token_embeddings) and not self.token_embeddings.startswith(f"{self.embeddings}.")

    @property
    def has_parts(self) -> bool:
        """The tokens are embedded by a model within the base model."""
        return self.text != self.base

    @property
    def parts(self) -> tuple[str, ...]:
        """Paths of the parts that have layers."""
        return tuple(dict.fromkeys(layer.part for layer in self.layers))

    def part_of(self, path: str) -> str:
        """The part of the layer that a module stands in."""
        return next(layer.part for layer in self.layers if f"{path}.".startswith(f"{layer.path}."))

    @property
    def attentions(self) -> tuple[Attention, ...]:
        return tuple(attention for layer in self.layers for attention in layer.attentions)

    @property
    def prefixed(self) -> tuple[Attention, ...]:
        """Those that can take a prefix: linear and deformable attention have no projection that gives keys, and some parts none at all."""
        return tuple(
            one
            for one in self.attentions
            if one.part not in self.without_prefixes and (one.key or one.fused or one.core in self.prefix_shapes)
        )


def layout_of(model: nn.Module) -> Layout:
    """The layout of a model after ``init``, from the roles of its layers' classes and from its parts."""
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(getattr(type(module), "roles", None), LayerRoles)
    ]
    if not found:
        raise AssertionError(f"no layer of {type(model).__name__} declares roles: was it given to init?")
    # Not by the prefix: a base model may have a part of this name (DINOv3).
    base = next(path for path, module in model.named_modules() if module is model.adapters_base)
    parts = {join(base, path): part for path, part in model.adapters_base.adapter_parts().items()}
    layers = [_of_part(model, path, module, base, parts) for path, module in found]
    text = next((path for path, part in parts.items() if part is model.adapters_base.text_part), None)
    front, keeper, reader, embeddings, entry, token_embeddings = base, base, base, "", "", ""
    if text is not None:
        stated = parts[text]
        place = stated.token_entry or stated.embedding_output
        front, keeper = (_front(model, stated, text, path) for path in (stated.embedding_output, place))
        within, _, _ = stated.token_entry.rpartition(".")
        reader = join(text, within) if within else keeper
        embeddings, entry, token_embeddings = (
            join(text, path) if path else "" for path in (stated.embedding_output, place, stated.token_embeddings)
        )
    return Layout(
        tuple(_in_towers(model, layers)),
        base,
        embeddings=embeddings,
        entry=entry,
        keeper=keeper,
        reader=reader,
        token_embeddings=token_embeddings,
        front=front,
        text=base if text is None else text,
        prefix_shapes=_prefix_shapes(model),
        without_prefixes=_parts_without("prefix_tuning", parts),
    )


def _parts_without(method: str, parts: Mapping[str, Any]) -> frozenset[str]:
    """The paths of those of several parts that state themselves that they take no adapter of a method."""
    return frozenset(path for path, part in parts.items() if len(parts) > 1 and _takes_no(method, part))


def _takes_no(method: str, part: Any) -> bool:
    """What is stated of a method for the class of a part, or for its model type."""
    model = part.get_submodule("")
    stated = model.own_methods or registered().methods.get(
        registered().type_of(type(model), model.config.model_type), {}
    )
    return bool(stated.get(method) or model.lacks.get(method))


def _of_part(model: nn.Module, path: str, module: nn.Module, base: str, parts: Mapping[str, Any]) -> Layer:
    """A layer, as the innermost part around it states it."""
    part = max((one for one in parts if not one or path.startswith(f"{one}.")), key=len, default=base)
    stated = parts.get(part, model.adapters_base)
    in_encoder = bool(getattr(stated.config, "is_encoder_decoder", False)) and module in _encoder_of(stated)
    forms = [(join(part, stack.path), stack.form) for stack in stated.layer_stacks]
    layer = _layer(path, module, in_encoder)
    attentions = tuple(replace(one, part=part) for one in layer.attentions)
    if part in _parts_without("bottleneck", parts):
        layer = replace(layer, hosts=(), is_left_out=True)
    return replace(layer, attentions=attentions, form=_form(path, forms), part=part)


def _encoder_of(part: Any) -> set[nn.Module]:
    """The modules in what upstream calls the encoder of a whole, whatever their names (SeamlessM4T); a half says so of itself."""
    encoder = part.get_encoder()
    return set() if encoder is None or encoder is part.get_submodule("") else set(encoder.modules())


def _in_towers(model: nn.Module, layers: Sequence[Layer]) -> Iterator[Layer]:
    """The layers, whose attentions say in which model they are where those of their kind in a part are in several."""
    types = {layer.path: _type_around(model, layer.path) for layer in layers}
    of_kind: dict[tuple[str, str, bool], set[str]] = {}
    for layer in layers:
        for attention in layer.attentions:
            of_kind.setdefault((layer.part, attention.kind, attention.in_encoder), set()).add(types[layer.path])
    for layer in layers:
        told_apart = (
            replace(one, tower=types[layer.path]) if len(of_kind[layer.part, one.kind, one.in_encoder]) > 1 else one
            for one in layer.attentions
        )
        yield replace(layer, attentions=tuple(told_apart))


def _type_around(model: nn.Module, path: str) -> str:
    """The model type of the nearest model around a module."""
    while not isinstance(module := model.get_submodule(path), PreTrainedModel):
        path = path.rpartition(".")[0]
    model_type: str = module.config.model_type
    return model_type


def _form(layer: str, stacks: Iterable[tuple[str, str]]) -> str:
    """What is stated of the list that holds a layer, maybe in lists of its own; "*" in the path of a list stands for any name."""
    owners = layer.rpartition(".")[0], re.sub(r"(\.\d+)+$", "", layer)
    for path, form in stacks:
        if any(re.fullmatch(re.escape(path).replace(r"\*", "[^.]+"), owner) for owner in owners):
            return form
    return ""


def _prefix_shapes(model: nn.Module) -> dict[str, tuple[int, int, int]]:
    """What the prefixes of a model were made for. (A wrong number does not fit upstream's queries or values.)"""
    shapes = {}
    for path, module in model.named_modules():
        for placed in getattr(getattr(module, "prefix_tuning", None), "placed", {}).values():
            shape = placed.tuning.shapes[placed.position]
            shapes[path] = (shape.heads, shape.key_width, shape.value_width)
    return shapes


def _front(model: nn.Module, part: Any, path: str, place: str) -> str:
    if not part.config.is_encoder_decoder:
        return path
    encoder = next(path for path, module in model.named_modules() if module is part.get_encoder())
    embeddings = join(path, place) if place else encoder
    return encoder if f"{embeddings}.".startswith(f"{encoder}.") else path  # of sounds: the decoder embeds the tokens


def _layer(path: str, module: nn.Module, in_encoder: bool) -> Layer:
    roles: LayerRoles = type(module).roles
    present = [entry for entry in roles.attentions if _is_present(module, entry)]
    found = [
        (entry.location, resolved(module, path))
        for entry in roles.bottlenecks
        if not entry.sublayer or _has_one_of(module, entry.sublayer, entry.classes)
        for path in expanded(module, entry.host)
    ]
    if not any(entry.kind == "cross" for entry in present):  # its place in a list may hold another sublayer here
        found = [(location, host) for location, host in found if location != "cross_attention"]
    hosts = tuple((location, join(path, host)) for location, host in found if host is not None)
    return Layer(
        path,
        tuple(_attention(module, path, entry, in_encoder) for entry in present),
        hosts,
        _present(module, path, roles.mlp.first),
        _present(module, path, roles.mlp.last),
        mlp_gate=_present(module, path, roles.mlp.gate),
        mixer_first=_present(module, path, roles.mixer.first),
        mixer_last=_present(module, path, roles.mixer.last),
    )


def _is_present(layer: nn.Module, roles: AttentionRoles) -> bool:
    """Whether the layer has the attention; other layers of its class may have something else in its place."""
    path = resolved(layer, roles.core)
    if path is None:
        return False
    return not roles.core_classes or _is_one_of(layer.get_submodule(path), roles.core_classes)


def _has_one_of(layer: nn.Module, path: str, classes: Iterable[str]) -> bool:
    """Whether a layer has a module of one of these classes at a path; it may have none."""
    path_here = resolved(layer, path)
    return path_here is not None and _is_one_of(layer.get_submodule(path_here), classes)


def _is_one_of(module: nn.Module, classes: Iterable[str]) -> bool:
    return not {known.__name__ for known in type(module).__mro__}.isdisjoint(classes)


def _attention(module: nn.Module, layer: str, roles: AttentionRoles, in_encoder: bool) -> Attention:
    entries = {name: [getattr(roles, name)] for name in ("query", "key", "value", "fused", "output")}
    entries["query"] += roles.query_alternatives
    paths = {name: "".join(_present(module, layer, [one for one in some if one])) for name, some in entries.items()}
    spans, order = _parts(module, roles, roles.fused or roles.key, roles.orders)
    gate_spans, gate_order = _parts(module, roles, roles.gate, roles.gate_orders)
    core = join(layer, resolved(module, roles.core) or "")
    lacks_value = bool(roles.value) and not paths["value"]
    return Attention(
        layer,
        core,
        roles.kind,
        **paths,
        in_encoder=in_encoder,
        spans=spans,
        order=order,
        lacks_value=lacks_value,
        gate=paths["query"] if roles.gate else "",
        gate_spans=gate_spans,
        gate_order=gate_order,
        value_beside=_present(module, layer, roles.value_beside),
    )


def _parts(
    layer: nn.Module, roles: AttentionRoles, given: str, orders: Iterable[OutputOrder]
) -> tuple[dict[str, tuple[int, int]], tuple[int, ...]]:
    """Each group of outputs of the projection `given` has some queries, some keys and some values (or only some of these), and some
    gates, as many as the core states."""
    path, after = (resolved(layer, entry) for entry in (given, roles.output))
    if not orders or not path:
        return {}, ()
    core = layer.get_submodule(resolved(layer, roles.core) or "")
    stated = next(one for one in orders if _is_of(core, one))
    total, _ = features(layer.get_submodule(path))
    known = {"outputs": total, "attended": features(layer.get_submodule(after))[1] if after else None}
    group, *sizes = (_size(text, core, known) for text in (stated.group or "outputs", *stated.sizes))
    parts = dict(zip(stated.parts, torch.arange(total).view(-1, group).split(sizes, dim=1), strict=True))
    rows = {role: parts[role[0]].flatten() for role in ("query", "key", "value", "gate") if role[0] in parts}
    stops = list(itertools.accumulate(map(len, rows.values())))
    order = tuple(torch.cat(list(rows.values())).tolist())
    return dict(zip(rows, zip([0, *stops], stops, strict=False), strict=True)), order


def _is_of(core: nn.Module, order: OutputOrder) -> bool:
    return all(getattr(core, name) for name in order.where) and not any(getattr(core, name) for name in order.unless)


def _size(text: str, core: nn.Module, known: Mapping[str, Any]) -> int:
    """A size by python itself: the names are attributes of the core, but for those that are known."""
    names = {name: getattr(core, name) for name in re.findall(r"(?<![.\w])[a-zA-Z_]\w*", text) if name not in known}
    return int(eval(text, {"__builtins__": {}}, {**names, **known}))


def features(projection: nn.Module) -> tuple[int, int]:
    """Outputs and inputs; upstream's Conv1D stores its weight the other way round."""
    rows, columns = projection.weight.shape
    return (rows, columns) if isinstance(projection, nn.Linear) else (columns, rows)


def join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _present(layer: nn.Module, path: str, entries: Iterable[str]) -> tuple[str, ...]:
    found = [known for entry in entries if (known := resolved(layer, entry)) is not None]
    return tuple(join(path, known) for known in found if not isinstance(layer.get_submodule(known), nn.Identity))


def resolved(module: nn.Module, path: str) -> str | None:
    """`path` with the names that its modules have ("layer.-1" is "layer.2"); None where a module is missing."""
    names: list[str] = []
    for name in path.split(".") if path else ():
        children = dict(module.named_children())
        if name.startswith("-"):
            name = list(children)[int(name)]
        if name not in children:
            return None
        names.append(name)
        module = children[name]
    return ".".join(names)
