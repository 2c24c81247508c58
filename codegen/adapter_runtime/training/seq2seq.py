"""`Seq2SeqAdapterTrainer`: evaluation by generation."""

from __future__ import annotations

from transformers import Seq2SeqTrainer

from adapter_runtime.training.trainer import AdapterTrainer


class Seq2SeqAdapterTrainer(AdapterTrainer, Seq2SeqTrainer):
    """An `AdapterTrainer` that, with ``predict_with_generate=True``, evaluates what the model generates."""
