"""What ``mixin_<model_type>.py`` states: the roles of modules, as texts that its template prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from adapter_codegen.emit.public_names import RUNTIME, Imports, read_public_names
from adapter_codegen.model import HolderPlan, LayerPlan, ModelPlan, StackPlan, TowerPlan
from adapter_codegen.rewrite import naming

LAYER_MIXIN = "LayerAdaptersMixin"
_ROLES = f"{RUNTIME}.roles"  # the module with the twins of the plan's roles


@dataclass(frozen=True)
class ModelMixin:
    """The mixin of a whole model."""

    name: str
    bases: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...]  # (name, value as text)


@dataclass(frozen=True)
class MixinFile:
    """The classes of a mixin file."""

    imports: Imports  # of the runtime
    layers: tuple[tuple[str, str], ...]  # (class, its roles as a call of `LayerRoles`)
    models: tuple[ModelMixin, ...]  # of the base model, of classes that hold its layers themselves, of towers


def mixin_file(plan: ModelPlan) -> MixinFile:
    """The mixins of a model: one for each layer with roles of its own, and one for each class that is a base model."""
    names = naming.mixins(plan)
    layers = naming.written_layers(plan)
    holders = (HolderPlan(plan.base), *plan.holders)
    models = [
        ModelMixin(names[holder.base.class_name], tuple(_bases(holder)), tuple(_attributes(holder)))
        for holder in holders
    ]
    models += [_tower(names[tower.base.class_name], tower) for tower in plan.towers]
    bases = {name for model in models for name in model.bases}
    runtime = read_public_names().imports([*bases, *([LAYER_MIXIN] if layers else [])])
    plans = (*(holder.base for holder in holders), *(tower.base for tower in plan.towers))
    has_stacks = any(base.stacks for base in plans)
    roles = {name for layer in layers for name in _role_classes(layer)} | ({"LayerStack"} if has_stacks else set())
    return MixinFile(
        imports=tuple(sorted([*runtime, *([(_ROLES, tuple(sorted(roles)))] if roles else [])])),
        layers=tuple((names[layer.class_name], _layer_roles(layer)) for layer in layers),
        models=tuple(models),
    )


def _tower(name: str, tower: TowerPlan) -> ModelMixin:
    """It says itself what it supports."""
    holder = HolderPlan(tower.base)
    stated = ("own_methods", literal({one.method.value: "" if one.supported else one.reason for one in tower.methods}))
    return ModelMixin(name, tuple(_bases(holder)), (*_attributes(holder), stated))


def _bases(holder: HolderPlan) -> Iterator[str]:
    base = holder.base
    if base.token_embeddings and not base.parts:  # a model made of several can have both, by its parts
        yield "EmbeddingAdaptersMixin"
        if base.embedding_output or base.token_entry:
            yield "InvertibleAdaptersMixin"
    has_head = bool(holder.head) or base.head is not None
    if has_head:
        yield "OwnHeadAdaptersMixin"
    if base.parts:
        yield "ModelUsingSubmodelsAdaptersMixin"
    elif not has_head:
        yield "ModelBaseAdaptersMixin"


def _attributes(holder: HolderPlan) -> Iterator[tuple[str, str]]:
    base = holder.base
    if base.stacks or not base.parts:
        yield "layer_stacks", tuple_of(_stack(stack) for stack in base.stacks)
    yield from (
        (name, literal(value))
        for name, value in (
            ("token_embeddings", base.token_embeddings),
            ("token_scale", base.token_scale),
            ("embedding_output", base.embedding_output),
            ("makes_mask", base.makes_mask),
            ("token_entry", base.token_entry),
            ("final_norm_path", base.final_norm),
            ("submodels", tuple(part.path for part in base.parts)),
            ("repeats_whole", bool(base.submodels) and not base.parts),
            ("head_modules", holder.head or base.head),
            ("lacks", {method.value: reason for method, reason in (*base.lacks, *holder.lacks)}),
        )
        if value
    )


def _stack(stack: StackPlan) -> str:
    """A call of the runtime's `LayerStack`, without what is as usual."""
    stated = {
        "shared": stack.shared,
        "form": stack.form.value,
        "in_some": bool(stack.without),
        "optional": stack.optional,
    }
    arguments = (f", {name}={literal(value)}" for name, value in stated.items() if value)
    return f"LayerStack({literal(stack.path)}{''.join(arguments)})"


def _role_classes(layer: LayerPlan) -> Iterator[str]:
    yield "LayerRoles"
    orders = [order for entry in layer.attentions for order in (*entry.orders, *entry.gate_orders)]
    stated = (("AttentionRoles", layer.attentions), ("OutputOrder", orders), ("BottleneckRole", layer.bottlenecks))
    for name, value in stated:
        if value:
            yield name
    if _has_projections(layer):
        yield "MLPRoles"
    if _mixes(layer):
        yield "MixerRoles"


def _has_projections(layer: LayerPlan) -> bool:
    return any(vars(layer.mlp).values())


def _mixes(layer: LayerPlan) -> bool:
    return any(vars(layer.mixer).values())


def _layer_roles(layer: LayerPlan) -> str:
    """``LayerRoles(...)`` with what the layer has."""
    stated = {
        "attentions": tuple_of(roles(entry, "core") for entry in layer.attentions) if layer.attentions else "",
        "bottlenecks": tuple_of(roles(entry, "host") for entry in layer.bottlenecks) if layer.bottlenecks else "",
        "mlp": roles(layer.mlp) if _has_projections(layer) else "",
        "mixer": roles(layer.mixer) if _mixes(layer) else "",
        "optional": literal(layer.optional) if layer.optional else "",
        "turned": literal(layer.turned) if layer.turned else "",
        "selected": literal(layer.selected) if layer.selected else "",
    }
    return f"LayerRoles({', '.join(f'{name}={text}' for name, text in stated.items() if text)})"


def roles(value: object, first: str = "") -> str:
    """A call of the runtime's twin of a role: ``AttentionRoles(core="self_attn", ...)``, without what is empty.

    Args:
        value: a frozen dataclass of the plan with the same fields as its twin.
        first: a field that is stated even where it is empty.
    """
    fields: dict[str, Any] = vars(value)
    stated = {name: entry for name, entry in fields.items() if name == first or entry not in ("", (), None)}
    arguments = (f"{name}={_stated(getattr(entry, 'value', entry))}" for name, entry in stated.items())
    return f"{type(value).__name__}({', '.join(arguments)})"


def _stated(value: object) -> str:
    """A literal, or a tuple of calls."""
    if isinstance(value, tuple) and all(map(is_dataclass, value)):
        return tuple_of(map(roles, value))
    return literal(value)


def tuple_of(texts: Iterator[str]) -> str:
    """A tuple of what the texts are expressions for."""
    return "(" + "".join(f"{text}, " for text in texts) + ")"


def literal(value: object) -> str:
    """`value` as a Python literal. Sets have no order and mappings may be of any kind, so both are not left to repr."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(literal(entry) for entry in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    raise TypeError(f"{value!r} has no literal")
