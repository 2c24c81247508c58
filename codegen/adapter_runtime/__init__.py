"""The torch runtime of adapter models: hand-written, for all models. It imports torch and transformers only.

Names are imported when they are first touched, so that importing this package costs nothing.

Where do I find ...
  the methods of models?     model_api.py (add, train, merge ...), base_model.py, head_model.py, files_api.py
  `init`?                    wrapping.py; for models nobody generated: interface/
  what runs in a layer?      layers/ (places) and methods/ (modules of one adapter)
  options of methods?        configuration/
  blocks like Stack?         composition.py
  files and the hub?         saving.py, loading.py, files/
  prediction heads?          heads/
  embeddings of tokens?      embeddings.py (further ones, by name), invertible_api.py
  `AdapterTrainer`?          training/
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
