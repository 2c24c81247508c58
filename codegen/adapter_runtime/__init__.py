"""The torch runtime of adapter models: hand-written, for all models. It imports torch and transformers only.

Names are imported when they are first touched, so that importing this package costs nothing.

Where do I find ...
  the methods of models?     model/ (api.py: add, train, merge ...), files/api/ (save and load), model/heads/
  `init`?                    model/init; for models that nobody generated: model/interface/
  a method, and its options? methods/, a folder each; methods/table.py lists them
  what runs in a layer?      programs/ (nodes, and the base of all places), methods/*/layer.py
  blocks like Stack?         composition.py; what they do in a layer: programs/blocks.py
  what a call knows?         call/
  what a model promises?     contract/ (configs, state, Protocols)
  files and the hub?         files/
  prediction heads?          heads/
  `AdapterTrainer`?          training/
Which of these imports which is drawn in docs/architecture.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from adapter_runtime.public import OF_THE_RUNTIME, PUBLIC

_HOMES = {name: module for table in (PUBLIC, OF_THE_RUNTIME) for module, names in table.items() for name in names}

# The release. Both distributions that hold this package (adapter-codegen and adapter-models) take theirs from this line.
__version__ = "0.1.0"

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
