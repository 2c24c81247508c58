"""Heads that predict something for each frame of a sound.

Letters of shapes: B batch, L frames, H hidden, C classes, V tokens of the vocabulary, T tokens of a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from transformers.modeling_outputs import CausalLMOutput, TokenClassifierOutput
from transformers.utils import ModelOutput
from typing_extensions import Unpack

from adapter_runtime.contract.config_values import config_value
from adapter_runtime.contract.head_config import HeadConfig, TransformOptions
from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.kinds.losses import ctc_loss
from adapter_runtime.heads.outputs import with_logits
from adapter_runtime.heads.sizes import feeding_config, vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AudioFrameClassificationHead(PredictionHead):
    """One class per frame of a sound: who speaks when."""

    head_type = "audio_frame_classification"
    is_pooled = False

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        id2label: dict[int, str] | None = None,
        bias: bool = True,
        dropout_prob: float | None = None,
        **transform: Unpack[TransformOptions],
    ) -> None:
        config: HeadConfig = {
            **label_config(num_labels, id2label),
            "layers": layers,
            "activation_function": activation_function,
            "bias": bias,
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
        labels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits [B, L, C] of each frame, and the loss: the mean cross entropy of all frames, as upstream's.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            attention_mask: not used.
            labels: [B, L, C], 1 for the class of each frame, as upstream's heads take them.
        """
        logits = self.logits(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = functional.cross_entropy(logits.flatten(0, 1), labels.reshape(-1, logits.shape[-1]).argmax(dim=1))
        return with_logits((TokenClassifierOutput,), outputs, loss, logits=logits)


class CTCHead(PredictionHead):
    """Predicts a text that has no times: connectionist temporal classification of the frames of a sound.

    How losses are summed, and whether infinite ones count, is what the config of the model says (``ctc_loss_reduction``,
    ``ctc_zero_infinity``). The blank is its padding token.

    Raises:
        ValueError: the config names no vocabulary, or no padding token.
    """

    head_type = "ctc"
    is_pooled = False

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        vocab_size: int | None = None,
        layers: int = 1,
        activation_function: str | None = "tanh",
        bias: bool = True,
        dropout_prob: float | None = None,
        **transform: Unpack[TransformOptions],
    ) -> None:
        of_model = feeding_config(model)
        blank = config_value(of_model, "pad_token_id")
        if blank is None:
            raise ValueError(f"{type(of_model).__name__} has no pad_token_id, the blank of a CTC head. Set it first.")
        config: HeadConfig = {
            "vocab_size": vocab_size or vocabulary_size(of_model),
            "layers": layers,
            "activation_function": activation_function,
            "bias": bias,
            "dropout_prob": dropout_prob,
            "label2id": None,
        }
        super().__init__(head_name, {**config, **transform})
        self.blank = int(blank)
        self.is_sum = getattr(of_model, "ctc_loss_reduction", "mean") == "sum"
        self.zero_infinity = bool(getattr(of_model, "ctc_zero_infinity", False))
        self.build(model, self.config["vocab_size"])

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        frame_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits [B, L, V] of each frame, and the loss.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            frame_mask: [B, L], true at frames that are no padding; None = all are none.
            labels: [B, T], the tokens of each text; -100, and the blank, at padding.

        Raises:
            ValueError: a label is no token of the vocabulary.
        """
        logits = self.logits(outputs.last_hidden_state)
        if labels is None:
            return with_logits((CausalLMOutput,), outputs, None, logits=logits)
        if int(labels.max()) >= logits.shape[-1]:
            raise ValueError(f"The head has {logits.shape[-1]} tokens, but a label is {int(labels.max())}.")
        loss = ctc_loss(logits, labels, frame_mask, self.blank, self.is_sum, self.zero_infinity)
        return with_logits((CausalLMOutput,), outputs, loss, logits=logits)
