"""Heads of upstream's own classes (``BertForSequenceClassification``) as flexible heads, and back.

Which flexible head a class of upstream's has is in a table that the tool renders from upstream's code: `StaticHead`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import transformers
from transformers import PreTrainedConfig

from adapter_runtime.contract.head_config import HeadConfig, StaticHeadConfig
from adapter_runtime.contract.registry import registered

DEFAULT_NAME = "default"
MULTI_LABEL = "multi_label_classification"  # upstream's `problem_type`


def is_static(class_name: str | None) -> bool:
    """Whether `class_name` is a class of upstream whose head has a flexible counterpart."""
    return class_name in registered().static_heads


def flexible_config(class_name: str, config: PreTrainedConfig | Mapping[str, object]) -> HeadConfig:
    """The config of the flexible head for a static one.

    Args:
        class_name: upstream's class.
        config: config of the static model, or the document of a saved static head: gives the labels.
    """
    head: StaticHeadConfig = {**registered().static_heads[class_name]["config"]}

    def stated(name: str) -> object:
        return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)

    key = head.pop("activation_key", None)
    activation = stated(key) if key else None
    head["activation_function"] = activation if isinstance(activation, str) else head.get("activation_function")
    if stated("problem_type") == MULTI_LABEL and head["head_type"] == "classification":
        head["head_type"] = "multilabel_classification"
    labels = stated("num_labels")
    count = labels if isinstance(labels, int) and labels else 2
    if head["head_type"] == "multiple_choice":
        head.setdefault("num_choices", count)
    elif not head["head_type"].endswith("_lm"):
        is_span = head["head_type"] == "question_answering"  # start and end, whatever labels the config names
        head.setdefault("num_labels", 2 if is_span else count)
        label2id = stated("label2id")
        head["label2id"] = None
        if isinstance(label2id, dict) and len(label2id) == head["num_labels"]:
            head["label2id"] = label2id
    return head


def key_mapping(class_name: str, head_name: str, base_model_prefix: str) -> dict[str, str]:
    """Patterns of a static model's keys -> names in the flexible one, as ``from_pretrained(key_mapping=...)`` takes.

    Args:
        class_name: upstream's class.
        head_name: of the head in the flexible model.
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


def differences(class_name: str, head: HeadConfig, config: PreTrainedConfig) -> list[str]:
    """The options in which a flexible head differs from that of a static class; none where both compute the same.

    Args:
        class_name: upstream's class.
        head: config of the flexible head.
        config: of the static model.
    """
    if not is_static(class_name):
        return [f"{class_name} has no head of a kind that is known"]
    static = flexible_config(class_name, config)
    if _kind(head) != _kind(static):
        return [f"head_type: {head.get('head_type')} and {static['head_type']}"]
    options: HeadConfig = {"layers": 1, "bias": True, "use_pooler": False, "shift_labels": False}
    if head.get("layers", 1) != 1:
        options.update({"activation_function": None, "layer_norm": False})
    pairs = {name: (head.get(name, default), static.get(name, default)) for name, default in options.items()}
    return [f"{name}: {own!r} and {theirs!r}" for name, (own, theirs) in pairs.items() if own != theirs]


def _kind(head: HeadConfig) -> str | None:
    """The type of a head, for comparison: a multi-label head has the same layers as a classification head."""
    kind = head.get("head_type")
    return "classification" if kind == "multilabel_classification" else kind


def static_keys(
    class_name: str, head_name: str, tensors: Mapping[str, torch.Tensor], prefix: str, own_prefix: str
) -> dict[str, torch.Tensor]:
    """Tensors of a flexible head, and of its base model, under the names that upstream's class gives them.

    Args:
        class_name: upstream's class.
        head_name: of the flexible head.
        tensors: as the flexible model names them.
        prefix: under which the base model is in `tensors`.
        own_prefix: under which the class has it; "" where it holds the parts of a base model itself.
    """
    layers = registered().static_heads[class_name]["layers"]
    modules = {f"heads.{head_name}.{index}": path for index, path in enumerate(layers) if path}
    tied = _tied_keys(class_name)
    result = {}
    for key, tensor in tensors.items():
        module, _, leaf = key.rpartition(".")
        if module in modules:
            name = f"{modules[module]}.{leaf}"
            result[name] = tensor
            if name in tied:
                result[tied[name]] = tensor
        else:
            inner = key.removeprefix(f"{prefix}.")
            result[f"{own_prefix}.{inner}" if own_prefix else inner] = tensor
    return result
