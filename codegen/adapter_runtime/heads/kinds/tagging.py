"""The head that gives one label per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.utils import ModelOutput
from typing_extensions import Unpack

from adapter_runtime.contract.head_config import HeadConfig, TransformOptions
from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.kinds.losses import token_loss
from adapter_runtime.heads.outputs import with_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TaggingHead(PredictionHead):
    """One class per token. Padding and tokens labelled -100 do not count in the loss."""

    head_type = "tagging"
    is_pooled = False

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        id2label: dict[int, str] | None = None,
        dropout_prob: float | None = None,
        bias: bool = True,
        **transform: Unpack[TransformOptions],
    ) -> None:
        config: HeadConfig = {
            **label_config(num_labels, id2label),
            "layers": layers,
            "activation_function": activation_function,
            "dropout_prob": dropout_prob,
            **transform,
        }
        if not bias:  # files of `adapters` have no such option
            config["bias"] = False
        super().__init__(head_name, config)
        self.build(model, num_labels)

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits [B, L, C] of each token, and the loss.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            attention_mask: [B, L], 1 at real tokens: others do not count in the loss.
            labels: [B, L], the class of each token; -100 is ignored.
        """
        logits = self.logits(outputs.last_hidden_state)
        loss = None if labels is None else token_loss(logits, labels, attention_mask)
        return with_logits((TokenClassifierOutput,), outputs, loss, logits=logits)
