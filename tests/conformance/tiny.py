"""A tiny configuration of any model type: its instance (`conformance.instances`), with fields of one's own.

The instances are found by a search. Where the search does not get something right, ``tiny.toml`` has an entry with a reason.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from conformance import instances

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VOCAB_SIZE = 99  # of the largest vocabulary in an instance
MOST_ENTRIES = 10  # of tiny.toml: more of them would be a table of models


@functools.cache
def entries() -> Mapping[str, Mapping[str, Any]]:
    """``tiny.toml``: model type -> {"reason": ..., "set": {field: value}}."""
    with open(Path(__file__).with_name("tiny.toml"), "rb") as file:
        table = tomllib.load(file)
    for model_type, entry in table.items():
        unknown = set(entry) - {"reason", "set"}
        if unknown or not entry.get("reason"):
            raise ValueError(f"tiny.toml, [{model_type}]: it needs a reason; unknown keys: {sorted(unknown)}")
    return table


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """A configuration of which the model fits into a few hundred kilobytes.

    Args:
        model_type: upstream's name, "llama".
        changes: fields that differ from the instance's (``is_decoder=True``).

    Raises:
        KeyError: the model type has no instance; the message says why.
    """
    return instances.read(model_type).config(**{**entries().get(model_type, {}).get("set", {}), **changes})


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter of `model` values large enough that each one matters for the outputs.

    Upstream's own initialisation (0.02, zero biases, unit norms) would hide a missing bias or a norm that is left out. A frozen table
    (sines and cosines of positions) is a constant: with other values, turned keys would not be turned.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            is_constant = parameter in tables and not parameter.requires_grad
            if is_constant or not parameter.is_floating_point() or not parameter.numel():
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.dtype)
            if parameter.dim() < 2:
                centre = 1.0 if bool((parameter == 1).all()) else 0.0
                parameter.copy_(centre + 0.1 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)


def configs_of(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """A configuration, and those of the models inside that it has."""
    inside = (getattr(config, name, None) for name in config.sub_configs)
    return [config, *(part for part in inside if part is not None)]
