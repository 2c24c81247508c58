"""Which adapters a model has, and which of them are active."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

from adapter_runtime.composition import AdapterCompositionBlock, Fuse
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import UnknownAdapterError, nearest


class StoredAdapters(TypedDict, total=False):
    """The adapters of a model in its ``config.json``."""

    adapters: Mapping[str, str]  # name -> key in `config_map`, or the name of a config
    config_map: Mapping[str, Mapping[str, Json]]


@dataclass(frozen=True)
class FusionEntry:
    """A fusion of a model."""

    adapter_names: tuple[str, ...]  # in the order of `Fuse`
    config: Mapping[str, Json]  # its options: an `AdapterFusionConfig`
    known_as: str | None = None  # the name of these options among the known ones; None = they have none


class ModelAdaptersConfig:
    """The adapters of a model by name. It is written to the model's ``config.json`` under "adapters"."""

    def __init__(self) -> None:
        self.adapters: dict[str, AdapterConfig] = {}
        self.fusions: dict[str, FusionEntry] = {}  # by `Fuse.name`
        self.shared: dict[str, tuple[str, ...]] = {}  # adapters that share parameters, by the name of their group
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
            raise UnknownAdapterError(
                f"The model has no fusion {name!r}. {nearest(name, self.fusions)} Add it: add_adapter_fusion([...])."
            )
        return self.fusions[name]

    def require(self, names: set[str]) -> None:
        """Check that the model has adapters of these names.

        Raises:
            UnknownAdapterError: it lacks one.
        """
        for name in sorted(names):
            self.get(name)

    def require_block(self, block: AdapterCompositionBlock) -> None:
        """Check that the model has the adapters and fusions of a composition.

        Raises:
            UnknownAdapterError: it lacks one.
        """
        self.require(block.flatten())
        if isinstance(block, Fuse):
            self.get_fusion(block.name)
        for child in block:
            if isinstance(child, AdapterCompositionBlock):
                self.require_block(child)

    def to_dict(self) -> dict[str, Json]:
        """The form in ``config.json``: names, and each config once."""
        identities = {name: config.identity() for name, config in self.adapters.items()}
        keys = {identity: f"config_{index}" for index, identity in enumerate(dict.fromkeys(identities.values()))}
        stored: dict[str, Json] = {
            "adapters": {name: keys[identity] for name, identity in identities.items()},
            "config_map": {keys[identities[name]]: config.to_dict() for name, config in self.adapters.items()},
        }
        if self.fusions:
            stored.update(self._fusions_to_dict())
        if self.shared:
            stored["shared_parameters"] = {group: list(names) for group, names in self.shared.items()}
        return stored

    def _fusions_to_dict(self) -> dict[str, Json]:
        """The fusions in ``config.json``, as `adapters` has them: names, each config once, and what each fusion mixes."""
        keys: dict[str, str] = {}
        stored: dict[str, str] = {}
        configs: dict[str, Json] = {}
        for name, entry in self.fusions.items():
            # Known configs are stored by their names: `adapters` cannot reload a model that has another one.
            key = entry.known_as or keys.setdefault(json.dumps(dict(entry.config)), f"fusion_config_{len(configs)}")
            stored[name] = key
            if entry.known_as is None:
                configs[key] = dict(entry.config)
        members = {name: list(entry.adapter_names) for name, entry in self.fusions.items()}
        return {"fusions": stored, "fusion_config_map": configs, "fusion_name_map": members}

    @staticmethod
    def read(stored: StoredAdapters) -> dict[str, AdapterConfig]:
        """The configs by name that `stored`, as made by `to_dict` or by `adapters`, holds."""
        configs = stored.get("config_map", {})
        return {name: AdapterConfig.load(configs.get(key, key)) for name, key in stored.get("adapters", {}).items()}
