"""The head that scores each of several answers and picks one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transformers.modeling_outputs import MultipleChoiceModelOutput
from transformers.utils import ModelOutput
from typing_extensions import Unpack

from adapter_runtime.contract.head_config import HeadConfig, TransformOptions
from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.outputs import with_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MultipleChoiceHead(PredictionHead):
    """One score per choice.

    Inputs of the model are [questions, choices, L]; how many choices there are may differ from call to call. The base model gets them as
    [questions * choices, L], so that B is questions * choices here. Inputs that come so already have as many as `num_choices` says.
    """

    head_type = "multiple_choice"

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_choices: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        id2label: dict[int, str] | None = None,
        use_pooler: bool = False,
        dropout_prob: float | None = None,
        **transform: Unpack[TransformOptions],
    ) -> None:
        labels = label_config(num_choices, id2label)
        config: HeadConfig = {
            "num_choices": labels["num_labels"],
            "label2id": labels["label2id"],
            "layers": layers,
            "activation_function": activation_function,
            "use_pooler": use_pooler,
            "dropout_prob": dropout_prob,
        }
        super().__init__(head_name, {**config, **transform})
        self.build(model, 1)

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_choices: int | None = None,
    ) -> ModelOutput:
        """Logits [questions, choices], and the loss.

        Args:
            outputs: of the base model.
            cls_output: [B, H], the vector that stands for each choice of each question.
            attention_mask: not used.
            labels: [questions], the index of the right choice.
            num_choices: how many choices the inputs have; None = those that the head was added with.

        Raises:
            ValueError: B is no multiple of the number of choices.
        """
        assert cls_output is not None
        rows, choices = cls_output.shape[0], num_choices or self.config["num_choices"]
        if rows % choices:
            raise ValueError(
                f"Head {self.name!r} chooses among {choices} answers, but got {rows} sequences, which is no multiple of"
                f" it. Give inputs of shape (batch, {choices}, length)."
            )
        logits = self.logits(cls_output).view(-1, choices)  # [B, 1] -> [questions, choices]
        loss = None if labels is None else functional.cross_entropy(logits, labels.reshape(-1))
        return with_logits((MultipleChoiceModelOutput,), outputs, loss, logits=logits)
