"""The configs that can be written as a string, by name."""

from __future__ import annotations

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.methods.configs.union import MAMConfig, UniPELTConfig
from adapter_runtime.methods.table import METHODS

NAMED: dict[str, AdapterConfig] = {
    **{name: config for spec in METHODS.values() for name, config in spec.named.items()},
    "mam": MAMConfig(),
    "unipelt": UniPELTConfig(),
}
