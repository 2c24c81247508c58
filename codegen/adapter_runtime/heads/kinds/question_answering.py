"""The head that marks the answer in the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.modeling_outputs import QuestionAnsweringModelOutput, Seq2SeqQuestionAnsweringModelOutput
from transformers.utils import ModelOutput
from typing_extensions import Unpack

from adapter_runtime.contract.head_config import HeadConfig, TransformOptions
from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.kinds.losses import span_loss
from adapter_runtime.heads.outputs import with_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class QuestionAnsweringHead(PredictionHead):
    """Scores every token as the start and as the end of the answer.

    Raises:
        ValueError: `num_labels` is not 2.
    """

    head_type = "question_answering"
    is_pooled = False
    label_arguments = ("start_positions", "end_positions")

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        id2label: dict[int, str] | None = None,
        dropout_prob: float | None = None,
        **transform: Unpack[TransformOptions],
    ) -> None:
        if num_labels != 2:
            raise ValueError(f"A question answering head has 2 outputs, start and end, not {num_labels}.")
        config: HeadConfig = {
            **label_config(num_labels, id2label),
            "layers": layers,
            "activation_function": activation_function,
            "dropout_prob": dropout_prob,
            **transform,
        }
        super().__init__(head_name, config)
        self.build(model, num_labels)

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits [B, L] of each token as the start, and as the end, of the answer; and the loss.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            attention_mask: not used.
            start_positions: [B], the first token of each answer. One outside the text is ignored.
            end_positions: [B], the last token of each.
        """
        logits = self.logits(outputs.last_hidden_state)
        start_logits, end_logits = logits.unbind(dim=-1)  # [B, L, 2] -> 2 x [B, L]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        classes = (QuestionAnsweringModelOutput, Seq2SeqQuestionAnsweringModelOutput)
        return with_logits(
            classes, outputs, loss, start_logits=start_logits.contiguous(), end_logits=end_logits.contiguous()
        )
