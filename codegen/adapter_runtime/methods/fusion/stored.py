"""Mixtures in the ``config.json`` of a whole model, in the form of `adapters`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from adapter_runtime.composition import Fuse
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.fusion.config import ADAPTERFUSION_CONFIG_MAP, AdapterFusionConfig


def fusions_to_dict(fusions: Mapping[str, Any]) -> dict[str, Any]:
    """Names, each config once, and which adapters each mixture mixes.

    Args:
        fusions: name -> `FusionEntry`.
    """
    keys: dict[str, str] = {json.dumps(config.to_dict()): name for name, config in ADAPTERFUSION_CONFIG_MAP.items()}
    stored: dict[str, str] = {}
    configs: dict[str, dict[str, Any]] = {}
    for name, entry in fusions.items():
        # Known configs are stored by their names: `adapters` cannot reload a model that has another one.
        key = keys.setdefault(json.dumps(entry.config.to_dict()), f"fusion_config_{len(configs)}")
        stored[name] = key
        if key not in ADAPTERFUSION_CONFIG_MAP:
            configs[key] = entry.config.to_dict()
    members = {name: list(entry.adapter_names) for name, entry in fusions.items()}
    return {"fusions": stored, "fusion_config_map": configs, "fusion_name_map": members}


def read_fusions(stored: Mapping[str, Any]) -> list[tuple[Fuse, AdapterFusionConfig]]:
    """The mixtures that `stored`, as made by `fusions_to_dict` or by `adapters`, holds.

    Raises:
        InvalidConfigError: one of them has no config that makes sense.
    """
    configs, members = stored.get("fusion_config_map") or {}, stored.get("fusion_name_map") or {}
    found = []
    for name, key in (stored.get("fusions") or {}).items():
        names = members.get(name, name)  # files of old name the adapters by the name of the mixture only
        names = names.split(",") if isinstance(names, str) else names
        found.append((Fuse(*names, name=name), read_fusion_config(configs.get(key, key), f"Fusion {name!r}")))
    return found


def read_fusion_config(stored: Any, where: str) -> AdapterFusionConfig:
    """The config of a mixture in a document: its options, or the name of one of the known configs.

    Raises:
        InvalidConfigError: it is neither.
    """
    if isinstance(stored, str) and stored in ADAPTERFUSION_CONFIG_MAP:
        return ADAPTERFUSION_CONFIG_MAP[stored]
    if not isinstance(stored, Mapping):
        raise InvalidConfigError(f"{where} has no config of a fusion, but {stored!r}.")
    return AdapterFusionConfig.from_dict(stored)
