"""Heads as documents and tensors: flexible heads by name, or the one head of a class with a static head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.errors import nearest
from adapter_runtime.heads.errors import UnknownHeadError

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin


def upstream_class_name(model: torch.nn.Module) -> str:
    """The name that files give to the class of `model`: that of upstream, but for the classes that are ours alone."""
    if is_adapter_model(model):
        return type(model).__name__
    upstream = (cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    return next(upstream, type(model)).__name__


def is_adapter_model(model: torch.nn.Module) -> bool:
    """Whether the class is a generated ``<Model>AdapterModel``, with flexible heads or without any."""
    return hasattr(model, "init_adapter_model")


def is_flexible(model: torch.nn.Module) -> bool:
    """Whether heads can be added by name."""
    return hasattr(model, "head_types")


def is_bare(model: ModelAdaptersMixin) -> bool:
    """Whether `model` has no place for a head: it is a base model, or an adapter model without heads."""
    return model.base_model is model or (is_adapter_model(model) and not is_flexible(model))


def has_head(model: ModelAdaptersMixin, name: str) -> bool:
    """Whether there is a head to save along with adapter `name`."""
    return name in model.heads if is_flexible(model) else not is_bare(model)


def export(model: ModelAdaptersMixin, name: str | None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The document of a head, without the envelope, and its tensors."""
    if is_flexible(model):
        name = name if name is not None else model.active_head
        if name not in model.heads:
            raise UnknownHeadError(f"The model has no head {name!r}. {nearest(str(name), model.heads)}")
        return {"name": name, "config": dict(model.heads[name].config)}, flexible_tensors(model, name)
    if is_bare(model):
        raise UnknownHeadError(f"A {upstream_class_name(model)} has no head.")
    id2label = getattr(model.config, "id2label", None)  # what `num_labels` is counted from; label2id need not agree
    labels = {
        "label2id": None if id2label is None else {label: int(index) for index, label in id2label.items()},
        "num_labels": getattr(model.config, "num_labels", None),
    }
    return {"name": None, "config": None, **labels}, static_tensors(model)


def flexible_tensors(model: ModelAdaptersMixin, name: str) -> dict[str, torch.Tensor]:
    """The tensors of head `name`, without those that are the input embeddings."""
    prefix = f"heads.{name}."
    tied = model.get_expanded_tied_weights_keys()
    state = model.state_dict(keep_vars=True)
    return {key: tensor for key, tensor in state.items() if key.startswith(prefix) and key not in tied}


def static_tensors(model: ModelAdaptersMixin) -> dict[str, torch.Tensor]:
    """All tensors outside the base model, without those that are the input embeddings."""
    prefix = f"{model.base_model_prefix}."
    tied = model.get_expanded_tied_weights_keys()
    state = model.state_dict(keep_vars=True)
    return {key: tensor for key, tensor in state.items() if not key.startswith(prefix) and key not in tied}


def with_labels(config: HeadConfig, id2label: Mapping[int, str] | None) -> HeadConfig:
    """The config of a flexible head with other names of its labels; of one without labels, as it is."""
    if id2label is None or "num_labels" not in config:
        return config
    label2id = {label: int(index) for index, label in id2label.items()}
    return {**config, "num_labels": len(label2id), "label2id": label2id}


def set_labels(model: Any, document: Mapping[str, Any], id2label: Mapping[int, str] | None) -> None:
    """Name the labels in the config of a model with a static head: as given, or else as in the document of the head.

    Names that are not as many as the head has outputs are left alone; the tensors then do not fit either.
    """
    stored = document.get("label2id")
    names = dict(id2label) if id2label is not None else {index: label for label, index in (stored or {}).items()}
    if len(names) != model.config.num_labels:
        return
    model.config.id2label = {int(index): label for index, label in names.items()}
    model.config.label2id = {label: int(index) for index, label in names.items()}


def head_type_of(model: Any, name: str) -> str:
    """The type of the head that is saved along with adapter `name`, in words; "" where there is none."""
    if not has_head(model, name):
        return ""
    if is_flexible(model):
        return str(model.heads[name].config["head_type"]).replace("_", " ")
    return upstream_class_name(model)
