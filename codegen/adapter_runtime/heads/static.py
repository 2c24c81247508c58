"""Heads of upstream's own classes (``BertForSequenceClassification``) as flexible heads.

The table is rendered from upstream's head classes: for each the type and options of the flexible head, and for each
layer of it the path of the module that upstream keeps it in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig

from adapter_runtime.files.errors import AdapterFileError
from adapter_runtime.registry import registered

DEFAULT_NAME = "default"


def is_static(class_name: str | None) -> bool:
    """Whether `class_name` is a class of upstream whose head has a flexible counterpart."""
    return class_name in registered().static_heads


def flexible_config(class_name: str, config: PreTrainedConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The config of the flexible head for a static one.

    Args:
        class_name: upstream's class.
        config: config of the static model, or the document of a saved static head: gives the labels.
    """
    head = dict(registered().static_heads[class_name]["config"])
    get = config.get if isinstance(config, Mapping) else lambda name: getattr(config, name, None)
    key = head.pop("activation_key", None)  # the field of upstream's config that chooses the activation
    head["activation_function"] = (get(key) if key else None) or head.get("activation_function")
    if get("problem_type") == "multi_label_classification" and head["head_type"] == "classification":
        head["head_type"] = "multilabel_classification"
    if head["head_type"] == "multiple_choice":
        head.setdefault("num_choices", get("num_labels") or 2)
    elif not head["head_type"].endswith("_lm"):
        is_span = head["head_type"] == "question_answering"  # start and end, whatever labels the config names
        head.setdefault("num_labels", 2 if is_span else get("num_labels") or 2)
        label2id = get("label2id")
        head["label2id"] = label2id if label2id and len(label2id) == head["num_labels"] else None
    return head


def key_mapping(class_name: str, head_name: str, base_model_prefix: str) -> dict[str, str]:
    """Patterns of a static model's keys -> names in the flexible one, as ``from_pretrained(key_mapping=...)`` takes.

    Args:
        base_model_prefix: of the flexible model; a class may keep its base model elsewhere (LlamaForQuestionAnswering).
    """
    layers = registered().static_heads[class_name]["layers"]
    modules = {path: f"heads.{head_name}.{index}" for index, path in enumerate(layers) if path}
    mapping = {rf"^{re.escape(path)}\.(weight|bias)$": rf"{target}.\1" for path, target in modules.items()}
    for alias, key in _tied_keys(class_name).items():
        path, _, leaf = alias.rpartition(".")
        if path in modules:
            mapping[rf"^{re.escape(key)}$"] = f"{modules[path]}.{leaf}"
    own_prefix = getattr(transformers, class_name).base_model_prefix
    if own_prefix != base_model_prefix:
        mapping[rf"^{re.escape(own_prefix)}\."] = f"{base_model_prefix}."
    return mapping


def _tied_keys(class_name: str) -> dict[str, str]:
    """Parameters that a static head shares with another of its own ("decoder.bias" with "predictions.bias")."""
    cls = getattr(transformers, class_name)
    tied = getattr(cls, "_tied_weights_keys", None) or {}
    base = f"{cls.base_model_prefix}."
    return {alias: key for alias, key in tied.items() if not key.startswith(base)}


def as_flexible(
    document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], load_as: str | None, base_model_prefix: str
) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """A saved head, flexible or static, as name, config and tensors of a flexible head.

    Raises:
        AdapterFileError: the head is that of a class without a flexible counterpart, or the document is incomplete.
    """
    if document.get("config") is not None:
        return _renamed(document, tensors, load_as)
    class_name = document.get("model_class")
    if class_name is None or not is_static(class_name):
        raise AdapterFileError(f"The head of {class_name} has no flexible counterpart.")
    name = load_as or DEFAULT_NAME
    patterns = {
        re.compile(pattern): target for pattern, target in key_mapping(class_name, name, base_model_prefix).items()
    }
    result = {}
    for key, tensor in tensors.items():
        for pattern, target in patterns.items():
            if pattern.match(key):
                key = pattern.sub(target, key)
                break
        result[key] = tensor
    return name, flexible_config(class_name, document), result


def _renamed(
    document: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], load_as: str | None
) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Take only the tensors of the head itself: `adapters` also writes those of heads whose names begin alike."""
    old = document.get("name")
    name = load_as or old
    if old is None or not isinstance(document["config"], dict):
        raise AdapterFileError('The document of a head needs a "name" and an object "config".')
    prefix = f"heads.{old}."
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return str(name), dict(document["config"]), {f"heads.{name}.{key}": tensor for key, tensor in own.items()}
