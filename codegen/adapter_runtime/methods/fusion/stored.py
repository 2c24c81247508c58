"""Fusions in files, in the form of `adapters`: their configs, and those of a whole model in its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapter_runtime.composition import Fuse
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.fusion.config import ADAPTERFUSION_CONFIG_MAP, AdapterFusionConfig


def read_fusions(stored: Mapping[str, Any]) -> list[tuple[Fuse, AdapterFusionConfig]]:
    """The fusions that the entry "adapters" of a ``config.json`` holds.

    Raises:
        InvalidConfigError: one of them has no config that makes sense.
    """
    configs, members = stored.get("fusion_config_map") or {}, stored.get("fusion_name_map") or {}
    found = []
    for name, key in (stored.get("fusions") or {}).items():
        names = members.get(name, name)  # files of old name the adapters by the name of the fusion only
        names = names.split(",") if isinstance(names, str) else names
        found.append((Fuse(*names, name=name), read_fusion_config(configs.get(key, key), f"Fusion {name!r}")))
    return found


def read_fusion_config(stored: Any, where: str) -> AdapterFusionConfig:
    """The config of a fusion in a document: its options, or the name of one of the known configs.

    Raises:
        InvalidConfigError: it is neither.
    """
    if isinstance(stored, str) and stored in ADAPTERFUSION_CONFIG_MAP:
        return ADAPTERFUSION_CONFIG_MAP[stored]
    if not isinstance(stored, Mapping):
        raise InvalidConfigError(f"{where} has no config of a fusion, but {stored!r}.")
    return AdapterFusionConfig.from_dict(stored)
