"""Adapters on the hub, and what tells configs apart: the helper functions of `adapters.utils` that still make sense."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import RepositoryNotFoundError

from adapter_runtime.hub.card import LIBRARY_TAG

# Where files from the hub are kept. There is no cache of adapters of its own.
ADAPTER_CACHE = huggingface_hub.constants.HF_HUB_CACHE


class AdapterType(str, Enum):
    """What an adapter is for, in files of old."""

    text_task = "text_task"
    text_lang = "text_lang"

    @classmethod
    def has(cls, value: object) -> bool:
        """Whether `value` is one of them."""
        return value in list(cls)

    def __repr__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter on the hub."""

    source: str  # "hf"
    adapter_id: str  # of its repository
    model_name: str | None = None  # the base model that it was trained for, if the repository says so
    task: str | None = None
    subtask: str | None = None
    username: str | None = None
    adapter_config: Mapping[str, Any] | None = None
    sha1_checksum: str | None = None  # the commit


def list_adapters(model_name: str | None = None, token: bool | str | None = None) -> list[AdapterInfo]:
    """The public adapters on the hub.

    Args:
        model_name: only those for this base model.
        token: see `huggingface_hub`.
    """
    found = HfApi(token=token).list_models(filter=LIBRARY_TAG, full=True, cardData=True, fetch_config=True)
    infos = [_info(model) for model in found]
    return infos if model_name is None else [info for info in infos if info.model_name == model_name]


def get_adapter_info(adapter_id: str, token: bool | str | None = None) -> AdapterInfo | None:
    """What the hub says about a repository; None where there is no such repository."""
    try:
        return _info(HfApi(token=token).model_info(adapter_id))
    except RepositoryNotFoundError:
        return None


def _info(model: ModelInfo) -> AdapterInfo:
    config = model.config or {}
    stated = config.get("adapter_transformers") or config.get("adapters") or {}
    card: Mapping[str, Any] = model.card_data or {}  # type: ignore[assignment]
    base = stated.get("model_name") or card.get("base_model")
    user, _, name = model.id.partition("/")
    return AdapterInfo(
        source="hf",
        adapter_id=model.id,
        model_name=base[0] if isinstance(base, list) and base else base or None,
        username=user if name else None,
        sha1_checksum=model.sha,
    )


def get_adapter_config_hash(config: Mapping[str, Any], length: int = 16, ignore_params: Collection[str] = ()) -> str:
    """A short name for the options of a config: the same exactly where they are, but for those in `ignore_params`."""
    options = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {name: value for name, value in options.items() if name not in ignore_params}
    return hashlib.sha1(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:length]
