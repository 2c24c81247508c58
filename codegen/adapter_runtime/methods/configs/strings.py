"""Configs by name: ``seq_bn``, ``seq_bn[reduction_factor=8]``, ``prefix_tuning|lora[r=4]``, a JSON file, a dict."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.methods.configs.named import NAMED
from adapter_runtime.methods.configs.union import ConfigUnion
from adapter_runtime.methods.registering import discover_methods

# `AdapterConfig` is offered from here, as it finds the methods by their names only if their package was imported.
__all__ = [
    "ADAPTER_CONFIG_MAP",
    "DEFAULT_ADAPTER_CONFIG",
    "AdapterConfig",
    "parse_config_string",
    "resolve_adapter_config",
]

ADAPTER_CONFIG_MAP = NAMED
DEFAULT_ADAPTER_CONFIG = "seq_bn"

_PART = re.compile(r"(?P<name>[^\[\]|\n]+)(?:\[(?P<options>.*)\])?", re.DOTALL)


def resolve_adapter_config(config: str | Mapping[str, Json] | AdapterConfig | None) -> AdapterConfig:
    """The config that a name, config string, path of a JSON file, dict or config stands for.

    Raises:
        InvalidConfigError: it stands for none.
    """
    if config is None:
        return ADAPTER_CONFIG_MAP[DEFAULT_ADAPTER_CONFIG]
    if isinstance(config, AdapterConfig):
        return config
    if isinstance(config, Mapping):
        return AdapterConfig.from_dict(config)
    if not isinstance(config, str):
        raise InvalidConfigError(f"An adapter config is a name, a dict or a config object, not {config!r}.")
    if config in ADAPTER_CONFIG_MAP:
        return ADAPTER_CONFIG_MAP[config]
    if os.path.isfile(config):  # False, not an error, for a string that is too long to be a path
        return _read_file(Path(config))
    return parse_config_string(config)


def _read_file(path: Path) -> AdapterConfig:
    """Read a JSON file that is a config, or that holds one under "config" as ``adapter_config.json`` does."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidConfigError(f"{path} is not a JSON file: {error}.") from error
    options = content.get("config", content) if isinstance(content, dict) else content
    if isinstance(options, str):
        return resolve_adapter_config(options)
    if not isinstance(options, dict):
        raise InvalidConfigError(f"{path} holds no adapter config.")
    return AdapterConfig.from_dict(options)


def parse_config_string(text: str) -> AdapterConfig:
    """``name[option=value,...]``, or several of them with "|" between.

    Raises:
        InvalidConfigError: a name or an option is unknown, or the text cannot be read.
    """
    parts = [_parse_part(part.strip()) for part in _split(text)]
    return parts[0] if len(parts) == 1 else ConfigUnion(*parts)


def _split(text: str) -> list[str]:
    """Split at each "|" that stands outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _parse_part(part: str) -> AdapterConfig:
    match = _PART.fullmatch(part)
    if match is None:
        raise InvalidConfigError(f"Cannot read {part!r} as a config. Write name[option=value,...].")
    name = match["name"].strip()
    if name not in ADAPTER_CONFIG_MAP:
        discover_methods()
    if name not in ADAPTER_CONFIG_MAP:
        raise InvalidConfigError(
            f"No adapter config is called {name!r}, and no file either. {nearest(name, ADAPTER_CONFIG_MAP)}"
        )
    config = ADAPTER_CONFIG_MAP[name]
    return config.replace(**_parse_options(match["options"])) if match["options"] else config


def _parse_options(text: str) -> dict[str, Json]:
    """``a=1,b=['q','k']`` as a dict. Values are Python literals."""
    try:
        call = ast.parse(f"options({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("options are written as name=value")
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise InvalidConfigError(
            f"Cannot read the options [{text}]. Options are written as name=value with Python literals, text in quotes: "
            "[r=8,attn_matrices=['q','v'],dtype='bfloat16']."
        ) from error
