"""Training adapters with transformers' `Trainer`.

Names are imported when they are first touched: `Trainer` brings accelerate and much of transformers along.

Where do I find ...
  the trainers?                           trainer.py, seq2seq.py
  what must hold before training?         readiness.py
  which parameters are decayed?           decay.py
  what a checkpoint holds?                checkpoints.py
  options on a command line?              arguments.py, and what they do to a model: preparation.py
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapter_runtime.training.arguments import AdapterArguments
    from adapter_runtime.training.preparation import setup_adapter_training
    from adapter_runtime.training.readiness import TrainingSetupError
    from adapter_runtime.training.seq2seq import Seq2SeqAdapterTrainer
    from adapter_runtime.training.trainer import AdapterTrainer

_HOMES = {
    "AdapterArguments": "arguments",
    "AdapterTrainer": "trainer",
    "Seq2SeqAdapterTrainer": "seq2seq",
    "TrainingSetupError": "readiness",
    "setup_adapter_training": "preparation",
}

__all__ = [
    "AdapterArguments",
    "AdapterTrainer",
    "Seq2SeqAdapterTrainer",
    "TrainingSetupError",
    "setup_adapter_training",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
