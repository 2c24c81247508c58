"""Small things that projects import from ``adapters.utils``: names of files, what is on the hub, digests of configs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

import huggingface_hub
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.files.names import (
    ADAPTER_FILES,
    EMBEDDING_FILE,
    FUSION_FILES,
    HEAD_FILES,
    INTERFACE_FILE,
    SETUP_FILE,
    TOKENIZER_FOLDER,
)
from adapter_runtime.methods.configs.strings import resolve_adapter_config

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
INTERFACE_CONFIG_NAME = INTERFACE_FILE
TOKENIZER_PATH = TOKENIZER_FOLDER

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

ADAPTER_CACHE = HF_HUB_CACHE  # adapters have no cache of their own: their files are in that of the hub

_LIBRARY = "adapters"  # by which the hub lists repositories that hold adapters


class AdapterType(str, Enum):
    """The two kinds of adapters that old files tell apart."""

    text_task = "text_task"
    text_lang = "text_lang"

    @classmethod
    def has(cls, value: object) -> bool:
        """Whether `value` is, or names, one of them."""
        return value in list(cls)

    def __repr__(self) -> str:
        return self.value


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter on the hub."""

    source: str  # "hf"
    adapter_id: str  # of its repository: "user/name"
    model_name: str | None = None  # the model that it was trained for, if its config or card says so
    task: str | None = None
    subtask: str | None = None
    username: str | None = None
    adapter_config: Mapping[str, Json] | None = None
    sha1_checksum: str | None = None  # of the commit


def list_adapters(model_name: str | None = None, token: bool | str | None = None) -> list[AdapterInfo]:
    """All public adapters of the hub.

    Args:
        model_name: only those that were trained for this model.
        token: a token, or True for the one that is logged in.
    """
    api = huggingface_hub.HfApi(token=token)
    adapters = [
        _info(model) for model in api.list_models(filter=_LIBRARY, full=True, cardData=True, fetch_config=True)
    ]
    return [info for info in adapters if model_name in (None, info.model_name)]


def get_adapter_info(adapter_id: str, token: bool | str | None = None) -> AdapterInfo | None:
    """What the hub knows about an adapter; None where it has none of this name, or does not answer."""
    try:
        return _info(huggingface_hub.HfApi(token=token).model_info(adapter_id))
    except HfHubHTTPError:
        return None


def _info(model: huggingface_hub.ModelInfo) -> AdapterInfo:
    stated = model.config or {}
    # Repositories of older releases have it under the older name; cards of this library say it in their metadata.
    own = stated.get("adapters") or stated.get("adapter_transformers") or {}
    trained_for: str | None = own.get("model_name")
    if trained_for is None and model.card_data is not None:
        bases = model.card_data.base_model
        trained_for = bases if isinstance(bases, str) else next(iter(bases or ()), None)
    user, _, name = model.id.partition("/")
    return AdapterInfo(
        source="hf",
        adapter_id=model.id,
        model_name=trained_for,
        username=user if name else None,
        sha1_checksum=model.sha,
    )


def get_adapter_config_hash(
    config: str | Mapping[str, Json] | AdapterConfig, length: int = 16, ignore_params: Collection[str] = ()
) -> str:
    """A digest of a config: the same exactly where all options are, but for those in `ignore_params`.

    Those of `adapters`, which leave out options, are the same for some configs that differ.

    Args:
        config: a config, its name or config string, or its options.
        length: of the digest.
        ignore_params: options that it does not depend on.
    """
    options = resolve_adapter_config(config).to_dict()
    kept = {name: value for name, value in options.items() if name not in ignore_params}
    identity = json.dumps(kept, sort_keys=True)
    return hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()[:length]
