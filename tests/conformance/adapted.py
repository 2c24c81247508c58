"""Our side of a comparison: upstream copies turned by ``init``, with adapters whose every weight matters."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import adapter_models  # registers what was generated
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.model.init.finding import lacks_layers
from conformance.methods import FAMILIES, OTHERWISE, Bottleneck, LoRA, Method, method
from conformance.outputs import run
from conformance.reasons import Reason
from conformance.reference.layout import Attention as AttentionPaths
from conformance.reference.layout import layout_of
from conformance.subjects import (
    Attention,
    Subject,
    architecture,
    auto,
    base_architecture,
    head_subjects,
    method_subjects,
    upstream_runs,
)

FIRST = "adapter_a"
SECOND = "adapter_b"
OF_TOKENS = ("prompt_tuning", "invertible")  # families that act on the embeddings of tokens


def initialised(subject: Subject, attention: Attention = "eager") -> PreTrainedModel:
    """A copy of the upstream model after ``init``."""
    model = subject.upstream(attention)
    adapter_models.init(model)
    return model


def adapted(
    subject: Subject,
    method: Method,
    attention: Attention = "eager",
    names: tuple[str, ...] = (FIRST,),
    active: tuple[str, ...] | None = None,
) -> PreTrainedModel:
    """A model with adapters `names` of one method, all weights random, of which `active` (default: all) run stacked."""
    model = initialised(subject, attention)
    for seed, name in enumerate(names):
        model.add_adapter(name, config=method.config)
        randomise_adapter(model, name, seed)
    model.set_active_adapters(list(names if active is None else active))
    return model


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, recognised by its name in theirs."""
    return {key: value for key, value in model.named_parameters() if f".{name}." in f".{key}."}


def base_parameters(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters of the base model that belong to no adapter. Those of a head are not among them."""
    adapters = {**adapter_parameters(model, FIRST), **adapter_parameters(model, SECOND)}
    own = {id(parameter) for parameter in model.base_model.parameters()}
    head = getattr(model, "head_modules", ())  # of a class that is a base model and has a head
    return {
        key: value
        for key, value in model.named_parameters()
        if id(value) in own and key not in adapters and key.partition(".")[0] not in head
    }


def randomise_adapter(model: nn.Module, name: str, seed: int = 0) -> None:
    """Random values of a size at which each parameter changes the outputs."""
    fill_randomly(adapter_parameters(model, name).values(), 100 + seed)


def fill_randomly(tensors: Iterable[Tensor], seed: int) -> None:
    """Put random values into tensors of an adapter, of a size at which each changes the outputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            width = tensor.shape[-1] if tensor.dim() > 1 else 2
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * width**-0.5)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def upstream_class(cls: type) -> type[PreTrainedModel]:
    """The first of upstream's that a generated class derives from."""
    return next(base for base in cls.__mro__ if base.__module__.startswith("transformers.models."))


def structure(model: nn.Module) -> dict[str, Any]:
    """The module tree: class, number of hooks and names of parameters per path."""
    return {
        path: (
            type(module).__qualname__,
            len(module._forward_hooks) + len(module._forward_pre_hooks),
            tuple(module._parameters),
            tuple(module._modules),
        )
        for path, module in model.named_modules()
    }


@functools.cache
def refused(subject: Subject, method: Method) -> Reason | None:
    """Why there is no `method` on `subject`: by the plan, or because no module of the kind that the config names is there."""
    if init_refuses(subject):
        return Reason.NO_ADAPTER_CLASSES
    planned = planned_for(subject)
    if any(planned.get(part.planned_as, "not planned") for part in method.parts):
        return Reason.NOT_PLANNED
    if parts_refuse(initialised(subject), method):
        return Reason.PARTS_REFUSE
    if _has_no_place(subject, method):
        return Reason.NO_PLACE
    return Reason.UNKNOWN_ORDER if _asks_for_unknown_parts(subject, method) else None


def parts_refuse(model: PreTrainedModel, method: Method) -> bool:
    """Whether the parts of a model made of several refuse `method`, and do so for the reasons that their own types state.

    The plan of the whole says nothing against a method where it cannot know its parts. A refusal with another reason, or one that
    `supports_adapter` and `add_adapter` do not share, is none of this kind, so that the checks run into it.
    """
    base = model.adapters_base
    if set(base.adapter_parts()) == {""} or model.supports_adapter(method.config):
        return False
    try:
        model.add_adapter(FIRST, config=method.config)
    except UnsupportedMethodError as error:
        return any(_stated_to_refuse(base, part.planned_as, str(error)) for part in method.parts)
    except InvalidConfigError:
        pass  # an option of the method has no place, as `cross_adapter` where nothing is attended on: `_has_no_place`, and checks tell
    else:
        model.delete_adapter(FIRST)
    return False


def _stated_to_refuse(base: Any, family: str, message: str) -> bool:
    """Every part that is asked for the family has a reason against it, and `message` is one of these."""
    asked = list(base.adapter_parts().values())
    if family in OF_TOKENS:
        asked = [part for part in asked if part is base.text_part]
        if not asked:
            reads = any(part.token_embeddings for part in base.adapter_parts().values())
            return not reads and "reads tokens" in message
    reasons = [stated_methods(part).get(family, "not planned") for part in asked]
    return all(reasons) and any(reason in message for reason in reasons)


def stated_methods(part: Any) -> dict[str, str]:
    """Family -> why a part of a model has none of it, as its own class and model type say; "" if it has."""
    model_type = registered().type_of(type(part.get_submodule("")), part.config.model_type)
    return dict(part.own_methods) or {**registered().methods.get(model_type, {}), **part.lacks}


def representatives(model_type: str) -> set[str]:
    """The names of the methods that stand for their families in a run over many models."""
    subjects = adapted_subjects(model_type)
    chosen = set()
    for family, first in FAMILIES.items():
        fitting = (
            name
            for name in (first, *OTHERWISE.get(family, ()))
            if not all(refused(subject, method(name)) for subject in subjects)
        )
        chosen.add(next(fitting, first))
    return chosen


def _has_no_place(subject: Subject, method: Method) -> bool:
    """The config asks for a projection or a location of which the roles of no layer have one."""
    layers = layout_of(initialised(subject)).layers
    attentions = [attention for layer in layers for attention in layer.attentions]
    for part in method.parts:
        if isinstance(part, LoRA):
            names = ("mlp_first", "mlp_last", "mixer_first", "mixer_last")
            wanted = [(name, getattr(part, name)) for name in names]
            if any(asked and not any(getattr(layer, name) for layer in layers) for name, asked in wanted):
                return True
            if any(not _gives(attentions, role) for role in part.attention):
                return True
        if isinstance(part, Bottleneck):
            there = {location for layer in layers for location, _ in layer.hosts}
            if not there.intersection(part.locations):
                return True
    return False


def _gives(attentions: list[AttentionPaths], role: str) -> bool:
    return any(getattr(one, role) or one.fused for one in attentions)


def _asks_for_unknown_parts(subject: Subject, method: Method) -> bool:
    attentions = layout_of(initialised(subject)).attentions
    asked = [part for part in method.parts if isinstance(part, LoRA)]
    return any(parts_are_unknown(attention, part) for attention in attentions for part in asked)


def parts_are_unknown(attention: AttentionPaths, part: LoRA) -> bool:
    """One projection gives several, in an order that the roles do not state, and the config asks for some of them."""
    if attention.gate and not attention.gate_spans and len({"query", "gate"}.intersection(part.attention)) == 1:
        return True
    if attention.spans:
        return False
    if attention.fused:
        return bool(part.attention)  # each has matrices of its own, also where all three are asked for
    return attention.shares_projection and len({"key", "value"}.intersection(part.attention)) == 1


def adapted_subjects(model_type: str) -> tuple[Subject, ...]:
    """The subjects on which methods are checked; the bare base model in place of a class that ``init`` does not take.

    Beside the first, which every model has, those that upstream itself can run: Megatron-BERT's cross-attention cannot.
    """
    first, *others = method_subjects(model_type)
    return tuple(
        (replace(subject, architecture=base_architecture(model_type)) if init_refuses(subject) else subject)
        for subject in (first, *(other for other in others if upstream_runs(other)))
    )


@functools.cache
def init_refuses(subject: Subject) -> bool:
    """Whether ``init`` does not take the class because no code was generated for its base model, or for none of the models that it is
    made of here (PP-OCRv5's convolutions)."""
    upstream = subject.upstream()
    base = type(upstream.base_model)
    is_known = f"{base.__module__}.{base.__qualname__}" in registered().model_mixins
    if is_known and not lacks_layers(upstream.base_model):
        return False
    try:
        adapter_models.init(upstream)
    except UnsupportedModelError:
        return True
    return False


@functools.cache
def holding_subjects(model_type: str) -> tuple[Subject, ...]:
    """One subject per further class that holds the layers: a wrapped decoder, an encoder alone, a backbone, a model with a head."""
    known = {
        type(initialised(subject).adapters_base)
        for subject in adapted_subjects(model_type)
        if not init_refuses(subject)
    }
    found = []
    for subject in head_subjects(model_type):
        if not upstream_runs(subject) or init_refuses(subject):  # some cannot be built of this config
            continue
        holder = type(initialised(subject).adapters_base)
        if holder not in known and subject.architecture != architecture(model_type, auto.MODEL_MAPPING_NAMES):
            found.append(_crossing(subject))
        known.add(holder)
    return tuple(found)


@functools.cache
def that_can_undo(subject: Subject) -> Subject:
    """`subject`; its base model, where its head reads the tied projection and does not call it, before which no inverse can stand (MobileBERT)."""
    upstream = subject.upstream()
    projection, base = upstream.get_output_embeddings(), base_architecture(subject.model_type)
    try:
        table = upstream.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return subject
    if projection is None or getattr(projection, "weight", None) is not getattr(table, "weight", None):
        return subject
    called: list[nn.Module] = []
    handle = projection.register_forward_hook(lambda module, args, output: called.append(module))
    try:
        run(upstream, subject.padded_inputs())
    except Exception:  # whatever upstream raises: the checks tell
        return subject
    finally:
        handle.remove()
    return subject if called else replace(subject, architecture=base)


def _crossing(subject: Subject) -> Subject:
    """With the hidden states of an encoder, where a decoder takes them: its cross-attention runs with them only."""
    crossing = replace(subject, cross=True)
    return crossing if subject.kind == "decoder" and upstream_runs(crossing) else subject


def planned_for(subject: Subject) -> dict[str, str]:
    """`planned_methods`, and what the class of the subject lacks beside; what it says itself, where it does.

    Where lists of its own stand beside models in it, these alone lack that, and the models may have it.
    """
    base = initialised(subject).adapters_base
    parts = base.adapter_parts()
    lacks = {} if "" in parts and len(parts) > 1 else base.lacks
    return dict(base.own_methods) or {**planned_methods(subject.model_type), **lacks}


@functools.cache
def planned_methods(model_type: str) -> dict[str, str]:
    """Family of methods -> the plan's reason why `model_type` has none of it; "" if it has."""
    return dict(registered().methods[model_type])
