"""Several methods under one adapter name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from typing_extensions import Self

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.bottleneck.config import BnConfig, ParBnConfig, SeqBnConfig
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig


class ConfigUnion(AdapterConfig):
    """Members that are added, activated, trained and saved together.

    Raises:
        InvalidConfigError: a member is a union itself, or two members would take the same places.
    """

    architecture = "union"

    def __init__(self, *configs: AdapterConfig) -> None:
        self.validate(configs)
        self.configs: tuple[AdapterConfig, ...] = tuple(configs)

    @staticmethod
    def validate(configs: tuple[AdapterConfig, ...]) -> None:
        """Check that `configs` can stand in one union.

        Raises:
            InvalidConfigError: they cannot; see the class.
        """
        for config in configs:
            if not isinstance(config, AdapterConfig):
                raise InvalidConfigError(f"A union holds configs of adapters, not {type(config).__name__}.")
            if isinstance(config, ConfigUnion):
                raise InvalidConfigError("A union cannot hold another union. List the members in one.")
        for position, first in enumerate(configs):
            for second in configs[position + 1 :]:
                if meet(first, second) and not are_in_other_parts(first, second):
                    raise InvalidConfigError(
                        f"A union cannot hold both {first} and {second}: they would take the same places."
                    )

    def __getitem__(self, key: str) -> Json:
        if key == "architecture":
            return self.architecture
        if key == "configs":
            return self.configs
        raise KeyError(key)

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return ("architecture", "configs")

    def __iter__(self) -> Iterator[str]:
        return iter(("architecture", "configs"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.configs))})"

    def to_dict(self) -> dict[str, Json]:
        return {"architecture": self.architecture, "configs": [config.to_dict() for config in self.configs]}

    def replace(self, **changes: Json) -> Self:
        """A copy with options changed in every member that has them.

        Raises:
            InvalidConfigError: no member has an option.
        """
        known = {name for config in self.configs for name in config._names()}
        for name in changes:
            if name not in known:
                raise InvalidConfigError(f"No member of the union has an option {name!r}.")
        members = [
            config.replace(**{name: value for name, value in changes.items() if name in config._names()})
            for config in self.configs
        ]
        copy = type(self).__new__(type(self))
        ConfigUnion.__init__(copy, *members)
        return copy

    @classmethod
    def _from_options(cls, options: Mapping[str, Json]) -> AdapterConfig:
        configs = options.get("configs")
        members = [member for member in configs if isinstance(member, Mapping)] if isinstance(configs, list) else []
        if not isinstance(configs, list) or len(members) < len(configs):
            raise InvalidConfigError('The dict of a union needs a list of members, which are dicts, under "configs".')
        return ConfigUnion(*map(AdapterConfig.from_dict, members))


def meet(first: AdapterConfig, second: AdapterConfig) -> bool:
    """Whether two members of a union ask for the same places of a part."""
    return first.architecture == second.architecture and not first.never_meets(second)


def are_in_other_parts(first: AdapterConfig, second: AdapterConfig) -> bool:
    """Whether two configs name different parts of a model. Only a model tells whether these names mean different ones."""
    return first.parts is not None and second.parts is not None and not set(first.parts) & set(second.parts)


def members(config: AdapterConfig) -> tuple[AdapterConfig, ...]:
    """The configs in a union, or the config itself."""
    return config.configs if isinstance(config, ConfigUnion) else (config,)


class MAMConfig(ConfigUnion):
    """Prefix tuning with a parallel bottleneck (https://arxiv.org/abs/2110.04366)."""

    def __init__(self, prefix_tuning: PrefixTuningConfig | None = None, adapter: BnConfig | None = None) -> None:
        super().__init__(prefix_tuning or PrefixTuningConfig(bottleneck_size=800), adapter or ParBnConfig())

    @property
    def prefix_tuning(self) -> AdapterConfig:
        return self.configs[0]

    @property
    def adapter(self) -> AdapterConfig:
        return self.configs[1]


class UniPELTConfig(ConfigUnion):
    """Prefix tuning, a bottleneck and LoRA, each with a gate (https://arxiv.org/abs/2110.07577)."""

    def __init__(
        self,
        prefix_tuning: PrefixTuningConfig | None = None,
        adapter: BnConfig | None = None,
        lora: LoRAConfig | None = None,
    ) -> None:
        members: tuple[AdapterConfig, ...] = (
            prefix_tuning or PrefixTuningConfig(prefix_length=10),
            adapter or SeqBnConfig(reduction_factor=16),
            lora or LoRAConfig(r=8, alpha=2),
        )
        super().__init__(*(member.replace(use_gating=True) for member in members))

    @property
    def prefix_tuning(self) -> AdapterConfig:
        return self.configs[0]

    @property
    def adapter(self) -> AdapterConfig:
        return self.configs[1]

    @property
    def lora(self) -> AdapterConfig:
        return self.configs[2]


ConfigUnion.register("union")
