"""Configs of the attention that mixes adapters (AdapterFusion)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError, nearest


@dataclass(frozen=True, eq=False)
class AdapterFusionConfig(Mapping[str, Json]):
    """How the outputs of several adapters are mixed (https://arxiv.org/abs/2005.00247).

    Args:
        key: project the outputs of the adapters before they are compared with the query. Required.
        query: project the query. Required.
        value: project the values, which are the outputs of the adapters. Required.
        query_before_ln: the query is the output of the sublayer; otherwise it is what the adapters read. Required.
        regularization: keep value matrices near the identity (`get_fusion_regularization_loss`). Required.
        residual_before: add the residual to each output before they are compared, not to their weighted sum. Required.
        temperature: begin the training with nearly equal weights. Required.
        value_before_softmax: project the values, or project their weighted sum: the same results; for compatibility. Required.
        value_initialized: value matrices start as identities. Required.
        dropout_prob: probability of dropping a score, in training; None = the model's dropout of attentions. Default: None.

    Raises:
        InvalidConfigError: an option that makes no sense.
    """

    key: bool
    query: bool
    value: bool
    query_before_ln: bool
    regularization: bool
    residual_before: bool
    temperature: bool
    value_before_softmax: bool
    value_initialized: bool
    dropout_prob: float | None = None

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "dropout_prob":
                if value is not None and not 0.0 <= value < 1.0:
                    raise InvalidConfigError(f"dropout_prob is {value!r}, but must lie in [0, 1).")
            elif not isinstance(value, bool):
                raise InvalidConfigError(
                    f"{type(self).__name__}: {item.name} is {value!r}, but must be True or False."
                )

    def __getitem__(self, key: str) -> Json:
        if key not in set(self):
            raise KeyError(key)
        value: Json = getattr(self, key)
        return value

    def __iter__(self) -> Iterator[str]:
        return (item.name for item in dataclasses.fields(self))

    def __len__(self) -> int:
        return len(dataclasses.fields(self))

    def __hash__(self) -> int:
        return hash(tuple(self.to_dict().values()))

    def to_dict(self) -> dict[str, Json]:
        """The options as plain data that JSON can hold."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> Self:
        """A copy with some options changed.

        Raises:
            InvalidConfigError: an option does not exist.
        """
        self._check_names(changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, options: Mapping[str, Json]) -> AdapterFusionConfig:
        """The config with the options that `to_dict` wrote.

        Raises:
            InvalidConfigError: an option does not exist, or one is missing.
        """
        cls._check_names(options)
        try:
            values: dict[str, Any] = dict(options)  # `__post_init__` looks at their types
            return cls(**values)
        except TypeError as error:
            raise InvalidConfigError(
                f"Cannot make a {cls.__name__} of {dict(options)}: {error}. For changes of few options, write "
                'AdapterFusionConfig.load("dynamic", temperature=True).'
            ) from error

    @classmethod
    def _check_names(cls, options: Mapping[str, Json]) -> None:
        known = [item.name for item in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise InvalidConfigError(f"{cls.__name__} has no option {name!r}. {nearest(name, known)}")

    @staticmethod
    def load(
        config: str | Path | Mapping[str, Json] | AdapterFusionConfig | None, **changes: Json
    ) -> AdapterFusionConfig:
        """The config that a name, dict, path of a JSON file or config stands for, with `changes`. None = "dynamic".

        Raises:
            InvalidConfigError: it stands for none.
        """
        resolved = _resolve(DEFAULT_ADAPTERFUSION_CONFIG if config is None else config)
        return resolved.replace(**changes) if changes else resolved


@dataclass(frozen=True, eq=False)
class StaticAdapterFusionConfig(AdapterFusionConfig):
    """A weighted sum of the outputs as they are.

    Other defaults than those of `AdapterFusionConfig`:
        key: True
        query: True
        value: False
        query_before_ln: False
        regularization: False
        residual_before: False
        temperature: False
        value_before_softmax: True
        value_initialized: False
    """

    key: bool = True
    query: bool = True
    value: bool = False
    query_before_ln: bool = False
    regularization: bool = False
    residual_before: bool = False
    temperature: bool = False
    value_before_softmax: bool = True
    value_initialized: bool = False


@dataclass(frozen=True, eq=False)
class DynamicAdapterFusionConfig(AdapterFusionConfig):
    """A weighted sum of the outputs after a learned value projection.

    Other defaults than those of `AdapterFusionConfig`:
        key: True
        query: True
        value: True
        query_before_ln: False
        regularization: True
        residual_before: False
        temperature: False
        value_before_softmax: True
        value_initialized: True
    """

    key: bool = True
    query: bool = True
    value: bool = True
    query_before_ln: bool = False
    regularization: bool = True
    residual_before: bool = False
    temperature: bool = False
    value_before_softmax: bool = True
    value_initialized: bool = True


ADAPTERFUSION_CONFIG_MAP: dict[str, AdapterFusionConfig] = {
    "static": StaticAdapterFusionConfig(),
    "dynamic": DynamicAdapterFusionConfig(),
}
DEFAULT_ADAPTERFUSION_CONFIG = "dynamic"


def known_name(config: AdapterFusionConfig) -> str | None:
    """The name of these options in `ADAPTERFUSION_CONFIG_MAP`; None = they have none."""
    known = ADAPTERFUSION_CONFIG_MAP.items()
    return next((name for name, options in known if options.to_dict() == config.to_dict()), None)


def _resolve(config: str | Path | Mapping[str, Json] | AdapterFusionConfig) -> AdapterFusionConfig:
    if isinstance(config, AdapterFusionConfig):
        return config
    if isinstance(config, Mapping):
        return AdapterFusionConfig.from_dict(config)
    if isinstance(config, str) and config in ADAPTERFUSION_CONFIG_MAP:
        return ADAPTERFUSION_CONFIG_MAP[config]
    if isinstance(config, (str, Path)) and Path(config).is_file():
        return _read_file(Path(config))
    if not isinstance(config, (str, Path)):
        raise InvalidConfigError(f"A fusion config is a name, a dict, a path or a config object, not {config!r}.")
    raise InvalidConfigError(
        f"No fusion config is called {str(config)!r}, and no file either. {nearest(str(config), ADAPTERFUSION_CONFIG_MAP)}"
    )


def _read_file(path: Path) -> AdapterFusionConfig:
    """Read a JSON file that is a config, or that holds one under "config" as ``adapter_fusion_config.json`` does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidConfigError(f"{path} is not a JSON file: {error}.") from error
    options = content.get("config", content) if isinstance(content, dict) else content
    if not isinstance(options, (dict, str)):
        raise InvalidConfigError(f"{path} holds no fusion config.")
    return _resolve(options)
