"""Small things that projects import from ``adapters.utils``: names of files, what is on the hub, digests of configs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import huggingface_hub
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.files.names import ADAPTER_FILES, FUSION_FILES, HEAD_FILES, SETUP_FILE
from adapter_runtime.methods.strings import resolve_adapter_config
from adapter_runtime.model.embeddings.files import EMBEDDING_FILE

CONFIG_NAME = ADAPTER_FILES.config
WEIGHTS_NAME = ADAPTER_FILES.pickle
SAFE_WEIGHTS_NAME = ADAPTER_FILES.safetensors
HEAD_CONFIG_NAME = HEAD_FILES.config
HEAD_WEIGHTS_NAME = HEAD_FILES.pickle
SAFE_HEAD_WEIGHTS_NAME = HEAD_FILES.safetensors
ADAPTERFUSION_CONFIG_NAME = FUSION_FILES.config
ADAPTERFUSION_WEIGHTS_NAME = FUSION_FILES.pickle
SAFE_ADAPTERFUSION_WEIGHTS_NAME = FUSION_FILES.safetensors
SETUP_CONFIG_NAME = SETUP_FILE
INTERFACE_CONFIG_NAME = "adapter_interface.json"
TOKENIZER_PATH = "tokenizer"

__all__ = [
    "ADAPTERFUSION_CONFIG_NAME",
    "ADAPTERFUSION_WEIGHTS_NAME",
    "ADAPTER_CACHE",
    "CONFIG_NAME",
    "EMBEDDING_FILE",
    "HEAD_CONFIG_NAME",
    "HEAD_WEIGHTS_NAME",
    "INTERFACE_CONFIG_NAME",
    "SAFE_ADAPTERFUSION_WEIGHTS_NAME",
    "SAFE_HEAD_WEIGHTS_NAME",
    "SAFE_WEIGHTS_NAME",
    "SETUP_CONFIG_NAME",
    "TOKENIZER_PATH",
    "WEIGHTS_NAME",
    "AdapterInfo",
    "AdapterType",
    "get_adapter_config_hash",
    "get_adapter_info",
    "list_adapters",
    "resolve_adapter_config",
]

ADAPTER_CACHE = HF_HUB_CACHE  # adapters from the hub are kept where all of its files are

_TAG = "adapters"  # of repositories that hold adapters


class AdapterType(str, Enum):
    """The two kinds of adapters that old files tell apart."""

    text_task = "text_task"
    text_lang = "text_lang"

    @classmethod
    def has(cls, value: object) -> bool:
        """Whether `value` is, or names, one of them."""
        return value in [entry.value for entry in cls]


@dataclass
class AdapterInfo:
    """An adapter on the hub."""

    source: str  # "hf"
    adapter_id: str  # "user/name"
    model_name: str | None = None  # the model that it was trained for, if its config says so
    task: str | None = None
    subtask: str | None = None
    username: str | None = None
    adapter_config: dict[str, Any] | None = None
    sha1_checksum: str | None = None  # of the commit


def list_adapters(model_name: str | None = None) -> list[AdapterInfo]:
    """All public adapters of the hub.

    Args:
        model_name: only those that were trained for this model.
    """
    found = huggingface_hub.HfApi().list_models(filter=_TAG, full=True, fetch_config=True)
    adapters = [_info(model) for model in found]
    return [info for info in adapters if model_name in (None, info.model_name)]


def get_adapter_info(adapter_id: str) -> AdapterInfo | None:
    """What the hub knows about an adapter; None where it has none of this name, or does not answer."""
    try:
        return _info(huggingface_hub.HfApi().model_info(adapter_id))
    except HfHubHTTPError:
        return None


def _info(model: Any) -> AdapterInfo:
    stated: Mapping[str, Any] = model.config or {}
    # Repositories of older releases have it under the older name.
    own = stated.get("adapters") or stated.get("adapter_transformers") or {}
    return AdapterInfo("hf", model.id, own.get("model_name"), username=model.id.split("/")[0], sha1_checksum=model.sha)


def get_adapter_config_hash(config: str | Mapping[str, Any] | AdapterConfig, length: int = 16) -> str:
    """A digest of a config: the same exactly where all options are.

    Those of `adapters`, which leave out options, are the same for some configs that differ.
    """
    identity = resolve_adapter_config(config).identity()
    return hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:length]
