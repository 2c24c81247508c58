"""The methods: a folder each, a `MethodSpec` each, and one table of them.

`AdapterConfig` is in a room below this one (``contract``) and imports no methods. This file, which runs when any of them is
imported, tells it how to find them.

Where do I find ...
  what a method is?            spec.py; all of them: table.py; methods from outside: registering.py
  the layers an adapter is in? placing.py
  configs by name, and unions? configs/
  what several methods use?    common/ (gates, projections by role, parameters that layers share, PEFT's format)
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json


class _KnownConfigs:
    """Asks `configs.strings`, which imports all methods, when it is first needed."""

    def resolve(self, config: str | Mapping[str, Json] | AdapterConfig) -> AdapterConfig:
        found: AdapterConfig = import_module(f"{__name__}.configs.strings").resolve_adapter_config(config)
        return found

    def discover(self) -> None:
        import_module(f"{__name__}.registering").discover_methods()


AdapterConfig.use(_KnownConfigs())
