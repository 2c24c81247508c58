"""Fusions in files, in the form of `adapters`: their configs, and those of a whole model in its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping

from adapter_runtime.composition import Fuse
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.fusion.config import ADAPTERFUSION_CONFIG_MAP, AdapterFusionConfig


def read_fusions(stored: Mapping[str, Json]) -> list[tuple[Fuse, AdapterFusionConfig]]:
    """The fusions that the entry "adapters" of a ``config.json`` holds.

    Raises:
        InvalidConfigError: one of them has no config that makes sense.
    """
    configs, members = _mapping(stored.get("fusion_config_map")), _mapping(stored.get("fusion_name_map"))
    found = []
    for name, key in _mapping(stored.get("fusions")).items():
        given = members.get(name, name)  # files of old name the adapters by the name of the fusion only
        names = given if isinstance(given, (list, tuple)) else str(given).split(",")
        config = read_fusion_config(configs.get(str(key), key), f"Fusion {name!r}")
        found.append((Fuse(*map(str, names), name=name), config))
    return found


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def read_fusion_config(stored: Json, where: str) -> AdapterFusionConfig:
    """The config of a fusion in a document: its options, or the name of one of the known configs.

    Raises:
        InvalidConfigError: it is neither.
    """
    if isinstance(stored, str) and stored in ADAPTERFUSION_CONFIG_MAP:
        return ADAPTERFUSION_CONFIG_MAP[stored]
    if not isinstance(stored, Mapping):
        raise InvalidConfigError(f"{where} has no config of a fusion, but {stored!r}.")
    return AdapterFusionConfig.from_dict(stored)
