"""Which adapters a model has, and which of them are active."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.configuration import AdapterConfig, AdapterFusionConfig
from adapter_runtime.errors import UnknownAdapterError, nearest


@dataclass(frozen=True)
class FusionEntry:
    """A fusion of a model."""

    adapter_names: tuple[str, ...]  # in the order of `Fuse`
    config: AdapterFusionConfig


class ModelAdaptersConfig:
    """The adapters of a model by name. It is written to the model's ``config.json`` under "adapters"."""

    def __init__(self) -> None:
        self.adapters: dict[str, AdapterConfig] = {}
        self.fusions: dict[str, FusionEntry] = {}  # by `Fuse.name`
        self.active_setup: AdapterCompositionBlock | None = None
        self.skip_layers: frozenset[int] = frozenset()

    def __contains__(self, name: object) -> bool:
        return name in self.adapters

    def __iter__(self) -> Iterator[str]:
        return iter(self.adapters)

    def __len__(self) -> int:
        return len(self.adapters)

    def get(self, name: str) -> AdapterConfig:
        """The config of an adapter.

        Raises:
            UnknownAdapterError: there is none of this name.
        """
        if name not in self.adapters:
            raise UnknownAdapterError(f"The model has no adapter {name!r}. {nearest(name, self.adapters)}")
        return self.adapters[name]

    def get_fusion(self, name: str) -> FusionEntry:
        """A fusion by its name.

        Raises:
            UnknownAdapterError: there is none of this name.
        """
        if name not in self.fusions:
            raise UnknownAdapterError(f"The model has no fusion {name!r}. {nearest(name, self.fusions)}")
        return self.fusions[name]

    def require(self, names: set[str]) -> None:
        """Raise where an adapter is missing."""
        for name in sorted(names):
            self.get(name)

    def to_dict(self) -> dict[str, Any]:
        """The form in ``config.json``: names, and each config once."""
        identities = {name: config.identity() for name, config in self.adapters.items()}
        keys = {identity: f"config_{index}" for index, identity in enumerate(dict.fromkeys(identities.values()))}
        return {
            "adapters": {name: keys[identity] for name, identity in identities.items()},
            "config_map": {keys[identities[name]]: config.to_dict() for name, config in self.adapters.items()},
        }

    @staticmethod
    def read(stored: Mapping[str, Any]) -> dict[str, AdapterConfig]:
        """The configs by name that `stored`, as made by `to_dict` or by `adapters`, holds."""
        configs = stored.get("config_map", {})
        return {name: AdapterConfig.load(configs.get(key, key)) for name, key in stored.get("adapters", {}).items()}
