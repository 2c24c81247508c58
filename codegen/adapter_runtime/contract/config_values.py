"""Values of a model's config, whatever the config calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar, overload

from transformers import PreTrainedConfig

from adapter_runtime.contract.registry import registered

Value = TypeVar("Value", int, float)


@overload
def config_value(config: PreTrainedConfig, name: str) -> int | None: ...


@overload
def config_value(config: PreTrainedConfig, name: str, default: Value) -> Value: ...


def config_value(config: PreTrainedConfig, name: str, default: float | None = None) -> float | None:
    """The value that `config` holds under its own name for our `name` (``CONFIG_CLASS_KEYS_MAPPING``).

    Only numbers count: a config may have lists of them under that name, one per stage, or a config.

    Args:
        config: of a model. Where it does not hold the value, its text config may.
        name: ours: "hidden_size", "hidden_dropout_prob", ...
        default: what to give where neither holds a number.
    """
    for candidate in (config, config.get_text_config()):
        own = registered().config_keys.get(type(candidate).__name__, {}).get(name, name)
        value: object = getattr(candidate, own, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
    return default


def field_of(config: PreTrainedConfig | Mapping[str, object], path: str) -> object:
    """A field of a config, or of one in it: "decoder.vocab_size"; None where there is none."""
    found: object = config
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    return found
