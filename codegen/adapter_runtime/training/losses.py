"""What the losses of models with adapters need beyond what `Trainer` knows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import nn
from transformers.trainer_pt_utils import LabelSmoother

from adapter_runtime.contract.snapshot import in_evaluation
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.training.readiness import TrainingSetupError, active_heads

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

# Predictions of a batch: tensors, and outputs of heads, which are mappings, in lists and tuples.
Predictions: TypeAlias = (
    "torch.Tensor | Mapping[str, Predictions] | list[Predictions] | tuple[Predictions, ...] | None"
)


@torch.no_grad()
def uses_item_count(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether the loss of `model` depends on ``num_items_in_batch``: half the loss for twice the items.

    Args:
        model: it is called twice.
        inputs: the arguments of a call, with targets; tensors are [B, ...].
    """
    losses = []
    with in_evaluation(model):
        for count in (1.0, 2.0):
            outputs = model(**inputs, num_items_in_batch=torch.tensor(count))
            losses.append(float(outputs["loss"] if isinstance(outputs, dict) else outputs[0]))
    return losses[0] != losses[1]


def per_head(predictions: Predictions, ignored: Collection[str]) -> Predictions:
    """Predictions with the outputs of heads, which `Trainer` cannot put into arrays, replaced by what is in them.

    Args:
        predictions: of a batch; tensors are [B, ...].
        ignored: names of fields that are no predictions.
    """
    if isinstance(predictions, Mapping):
        values = tuple(value for key, value in predictions.items() if key != "loss" and key not in ignored)
        return values[0] if len(values) == 1 else values
    if isinstance(predictions, (list, tuple)):
        return tuple(per_head(entry, ignored) for entry in predictions)
    return predictions


class HeadLabelSmoother:
    """Label smoothing that knows which flexible heads predict the next token.

    Upstream finds that out by the name of the model's class.

    Args:
        epsilon: how much of the weight of the right label goes to all labels.
        model: the model that is trained.
    """

    def __init__(self, epsilon: float, model: ModelAdaptersMixin) -> None:
        self.smoother = LabelSmoother(epsilon=epsilon)
        self.model = model

    def __call__(
        self,
        model_output: ModelOutput,
        labels: torch.Tensor,
        shift_labels: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            model_output: with logits [B, L, V].
            labels: [B, L]; -100 is ignored.
            shift_labels: whether upstream takes the model for one that predicts the next token.
            num_items_in_batch: labels that count, over all batches of an optimiser step; None = those of this batch.

        Raises:
            TrainingSetupError: several heads are active.
        """
        heads = active_heads(self.model)
        if len(heads) > 1:
            names = ", ".join(head.name for head in heads)
            raise TrainingSetupError(f"label_smoothing_factor works for one head at a time; active are {names}.")
        shifted = shift_labels or any(head.config.get("shift_labels", False) for head in heads)
        smoothed: torch.Tensor = self.smoother(model_output, labels, shifted, num_items_in_batch)
        return smoothed
