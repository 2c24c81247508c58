"""Heads as documents and tensors: flexible heads by name, or the head of an upstream class."""

from __future__ import annotations

import json
from collections.abc import Mapping

from transformers import PreTrainedConfig

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.heads.errors import UnknownHeadError
from adapter_runtime.heads.protocol import head_named, is_flexible


def upstream_class_name(model: AdaptedModel) -> str:
    """The name that files give to the class of `model`: that of upstream, but for the classes that are ours alone."""
    if model.is_adapter_model:
        return type(model).__name__
    upstream = (cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    return next(upstream, type(model)).__name__


def is_bare(model: AdaptedModel) -> bool:
    """Whether `model` has no place for a head: it is a base model, or an adapter model without heads."""
    is_base = model.base_model is model and not model.runs_head()
    return is_base or (model.is_adapter_model and not is_flexible(model))


def has_head(model: AdaptedModel, name: str) -> bool:
    """Whether there is a head to save along with adapter `name`."""
    return name in model.heads if is_flexible(model) else not is_bare(model)


def export(model: AdaptedModel, name: str | None) -> tuple[dict[str, Json], Tensors]:
    """The document of a head, without what all documents have, and its tensors.

    Args:
        name: of a flexible head; None = the active one, or the head of an upstream class.

    Raises:
        UnknownHeadError: there is no such head.
    """
    if is_flexible(model):
        active = model.active_head
        head = head_named(model, active if name is None and isinstance(active, str) else name)
        config: dict[str, Json] = json.loads(json.dumps(head.config))  # a copy, as JSON holds it
        return {"name": head.name, "config": config}, flexible_tensors(model, head.name)
    if is_bare(model):
        raise UnknownHeadError(f"A {upstream_class_name(model)} has no head.")
    return {"name": None, "config": None, **_labels(model.config)}, static_tensors(model)


def _labels(config: PreTrainedConfig) -> dict[str, Json]:
    """The names of the labels of a head of upstream's, and how many there are."""
    names: Mapping[int, str] | None = config.id2label  # what `num_labels` is counted from; label2id need not agree
    label2id = None if names is None else {label: int(index) for index, label in names.items()}
    return {"label2id": label2id, "num_labels": config.num_labels}


def flexible_tensors(model: AdaptedModel, name: str) -> Tensors:
    """The tensors of head `name`, without those that are the input embeddings."""
    prefix = f"heads.{name}."
    tied = model.get_expanded_tied_weights_keys()
    state = model.state_dict(keep_vars=True)
    return {key: tensor for key, tensor in state.items() if key.startswith(prefix) and key not in tied}


def static_tensors(model: AdaptedModel) -> Tensors:
    """All tensors of upstream's head, without those that are the input embeddings."""
    tied = model.get_expanded_tied_weights_keys()
    state = model.state_dict(keep_vars=True)
    return {key: tensor for key, tensor in state.items() if model.is_of_head(key) and key not in tied}


def with_labels(config: HeadConfig, id2label: Mapping[int, str] | None) -> HeadConfig:
    """The config of a flexible head with other names of its labels; of one without labels, as it is."""
    if id2label is None or "num_labels" not in config:
        return config
    label2id = {label: int(index) for index, label in id2label.items()}
    return {**config, "num_labels": len(label2id), "label2id": label2id}


def set_labels(model: AdaptedModel, label2id: Json, id2label: Mapping[int, str] | None) -> None:
    """Name the labels in the config of a model of one of upstream's classes.

    Names that are not as many as the head has outputs are left alone; the tensors then do not fit either.

    Args:
        label2id: as the document of the head has them, unchecked.
        id2label: what the caller wants instead; None = nothing else.
    """
    stored = label2id if isinstance(label2id, Mapping) else {}
    names = {int(index): label for label, index in stored.items() if isinstance(index, (int, str))}
    if id2label is not None:
        names = {int(index): label for index, label in id2label.items()}
    if len(names) == model.config.num_labels:
        model.config.id2label = names
        model.config.label2id = {label: index for index, label in names.items()}


def head_type_of(model: AdaptedModel, name: str) -> str:
    """The type of the head that is saved along with adapter `name`, in words; "" where there is none."""
    if not has_head(model, name):
        return ""
    if is_flexible(model):
        return head_named(model, name).config["head_type"].replace("_", " ")
    return upstream_class_name(model)
