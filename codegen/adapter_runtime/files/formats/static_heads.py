"""Saved heads, flexible or static, as a model of the other kind has them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files.documents import Document
from adapter_runtime.heads.static import (
    DEFAULT_NAME,
    differences,
    flexible_config,
    is_static,
    key_mapping,
    static_keys,
    unmet,
)


def as_flexible(
    document: Document,
    tensors: Mapping[str, torch.Tensor],
    load_as: str | None,
    base_model_prefix: str,
    config: PreTrainedConfig,
) -> tuple[str, HeadConfig, dict[str, torch.Tensor]]:
    """A saved head, flexible or static, as name, config and tensors of a flexible head.

    Args:
        base_model_prefix: of the model that shall have it.
        config: of that model.

    Raises:
        AdapterFileError: the head is that of a class without a flexible counterpart, or the document is incomplete.
    """
    if document.get("config") is not None:
        return _renamed(document, tensors, load_as)
    class_name = document.get("model_class")
    if not isinstance(class_name, str) or not is_static(class_name):
        raise AdapterFileError(f"The head of {class_name} has no flexible counterpart.")
    missing = unmet(class_name, config)
    if missing:
        raise AdapterFileError(f"The head of {class_name} has no flexible counterpart where {', '.join(missing)}.")
    name = load_as or DEFAULT_NAME
    patterns = {
        re.compile(pattern): target for pattern, target in key_mapping(class_name, name, base_model_prefix).items()
    }
    result = {}
    for key, tensor in tensors.items():
        pattern = next((pattern for pattern in patterns if pattern.match(key)), None)
        if pattern is not None:
            result[pattern.sub(patterns[pattern], key)] = tensor
        elif tensor.any():  # zeros in a buffer change nothing
            result[key] = tensor
    return name, flexible_config(class_name, document, config), result


def as_static(
    document: Document,
    tensors: Mapping[str, torch.Tensor],
    class_name: str,
    config: PreTrainedConfig,
    expected: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The tensors of a saved flexible head under the names that upstream's class gives them.

    Args:
        class_name: of the model that shall have them.
        config: of that model.
        expected: the tensors of its head. Those that are no parameters (BART's final_logits_bias) stay as they are.

    Raises:
        AdapterMismatchError: the class has another head.
        AdapterFileError: the document is incomplete.
    """
    name, head, own = _renamed(document, tensors, None)
    reasons = _obstacles(class_name, head, config)
    if reasons:
        raise AdapterMismatchError(
            f"The {head.get('head_type')} head {name!r} is not like that of a {class_name}: {'; '.join(reasons)}."
        )
    kept = {key: tensor for key, tensor in expected.items() if not isinstance(tensor, torch.nn.Parameter)}
    return {**kept, **static_keys(class_name, name, own, "", "")}


def fits_static(document: Document, class_name: str, config: PreTrainedConfig) -> bool:
    """Whether the saved head that `document` describes is a flexible one that `as_static` can convert."""
    head = _config_of(document)
    return head is not None and not _obstacles(class_name, head, config)


def _config_of(document: Document) -> HeadConfig | None:
    """A copy of the config of a saved flexible head; None where it is a static one, or no object."""
    stored = document.get("config")
    if not isinstance(stored, Mapping):
        return None
    config: HeadConfig = json.loads(json.dumps(stored))
    return config


def _obstacles(class_name: str, head: HeadConfig, config: PreTrainedConfig) -> list[str]:
    """What `differences` gives, and a different number of labels."""
    reasons = differences(class_name, head, config)
    labels, own = head.get("num_labels"), config.num_labels
    if labels not in (None, own) and head.get("head_type") != "question_answering":
        reasons.append(f"num_labels: {labels!r} and {own!r}")
    return reasons


def _renamed(
    document: Document, tensors: Mapping[str, torch.Tensor], load_as: str | None
) -> tuple[str, HeadConfig, dict[str, torch.Tensor]]:
    """Take only the tensors of the head itself: `adapters` also writes those of heads whose names begin alike."""
    old = document.get("name")
    name = load_as or old
    config = _config_of(document)
    if old is None or config is None:
        raise AdapterFileError('The document of a head needs a "name" and an object "config".')
    prefix = f"heads.{old}."
    own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return str(name), config, {f"heads.{name}.{key}": tensor for key, tensor in own.items()}
