"""What the losses of models with adapters need beyond what `Trainer` knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from transformers.trainer_pt_utils import LabelSmoother

from adapter_runtime.training.readiness import TrainingSetupError, active_heads


@torch.no_grad()
def uses_item_count(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether the loss of `model` depends on ``num_items_in_batch``: half the loss for twice the items."""
    was_training = model.training
    model.eval()  # without dropout: no random number is drawn
    try:
        losses = []
        for count in (1.0, 2.0):
            outputs = model(**inputs, num_items_in_batch=torch.tensor(count))
            losses.append(float(outputs["loss"] if isinstance(outputs, dict) else outputs[0]))
    finally:
        model.train(was_training)
    return losses[0] != losses[1]


def per_head(predictions: Any, ignored: Collection[str]) -> Any:
    """Predictions with the outputs of heads, which `Trainer` cannot put into arrays, replaced by what is in them.

    Args:
        predictions: tensors, and outputs of heads, in lists and tuples.
        ignored: names of fields that are no predictions.
    """
    if isinstance(predictions, Mapping):
        values = tuple(value for key, value in predictions.items() if key != "loss" and key not in ignored)
        return values[0] if len(values) == 1 else values
    if isinstance(predictions, (list, tuple)):
        return tuple(per_head(entry, ignored) for entry in predictions)
    return predictions


class HeadLabelSmoother(LabelSmoother):  # type: ignore[misc]
    """Label smoothing that knows which flexible heads predict the next token.

    Upstream finds that out by the name of the model's class.
    """

    def __init__(self, epsilon: float, model: Any) -> None:
        super().__init__(epsilon=epsilon)
        self.model = model

    def __call__(
        self,
        model_output: Any,
        labels: torch.Tensor,
        shift_labels: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        heads = active_heads(self.model)
        if len(heads) > 1:
            names = ", ".join(head.name for head in heads)
            raise TrainingSetupError(f"label_smoothing_factor works for one head at a time; active are {names}.")
        shifted = shift_labels or any(head.config.get("shift_labels", False) for head in heads)
        smoothed: torch.Tensor = super().__call__(model_output, labels, shifted, num_items_in_batch)
        return smoothed
