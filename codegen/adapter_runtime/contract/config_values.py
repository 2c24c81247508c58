"""Values of a model's config, whatever the config calls them."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from adapter_runtime.contract.registry import registered


def config_value(config: PreTrainedConfig, name: str, default: Any = None) -> Any:
    """The value that `config` holds under its own name for our `name` (``CONFIG_CLASS_KEYS_MAPPING``)."""
    text_config = config.get_text_config()
    for candidate in (config, text_config):
        own = registered().config_keys.get(type(candidate).__name__, {}).get(name, name)
        value = getattr(candidate, own, None)
        if value is not None:
            return value
    return default
