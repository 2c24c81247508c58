"""What generated code tells the runtime about the models it holds.

The runtime never imports ``adapter_models``; ``adapter_models`` calls `register` when it is imported. Classes are named by
dotted strings and imported when a model of theirs is first touched, so that ``import adapter_models`` stays cheap.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adapter_runtime.contract.head_config import StaticHead


@dataclass(frozen=True)
class Registry:
    """The tables of generated code."""

    # The release that the generated files were written from; reads their manifest.
    transformers_version: Callable[[], str]
    model_mixins: Mapping[str, str]  # upstream class -> mixin; classes that need a mixin only (MODEL_MIXIN_MAPPING)
    with_adapters: Mapping[str, str]  # upstream class -> generated class with edited forwards
    adapter_models: Mapping[str, str]  # model type -> "adapter_models.llama.LlamaAdapterModel"
    # Config class name -> our name -> its own (CONFIG_CLASS_KEYS_MAPPING).
    config_keys: Mapping[str, Mapping[str, str]]
    static_heads: Mapping[str, StaticHead]  # name of upstream's class with a head -> the flexible head for it
    methods: Mapping[str, Mapping[str, str]]  # model type -> method -> "" if supported, else the reason why not
    model_types: Sequence[str] = field(default=())


_registry: Registry | None = None


def register(registry: Registry) -> None:
    """Make `registry` the one that `init` and the auto classes use."""
    global _registry
    _registry = registry


def registered() -> Registry:
    """The registry of generated models.

    Raises:
        RuntimeError: no generated models were imported.
    """
    if _registry is None:
        raise RuntimeError("No generated models are registered. Import them first: `import adapter_models`.")
    return _registry


def load_class(dotted: str) -> type:
    """Import ``package.module.Class``."""
    module, _, name = dotted.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found
