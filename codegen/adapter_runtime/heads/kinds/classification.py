"""Heads that give one prediction per sequence, image, video or sound."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from transformers.modeling_outputs import (
    ImageClassifierOutput,
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
)
from transformers.utils import ModelOutput
from typing_extensions import Unpack

from adapter_runtime.contract.head_config import HeadConfig, TransformOptions
from adapter_runtime.heads.base import PredictionHead, label_config
from adapter_runtime.heads.kinds.losses import classification_loss, multilabel_loss
from adapter_runtime.heads.outputs import with_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SEQUENCE_OUTPUTS = (SequenceClassifierOutput, SequenceClassifierOutputWithPast, Seq2SeqSequenceClassifierOutput)


class ClassificationHead(PredictionHead):
    """One of several classes per sequence, or with ``num_labels=1`` a regression."""

    head_type = "classification"

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        id2label: dict[int, str] | None = None,
        use_pooler: bool = False,
        bias: bool = True,
        dropout_prob: float | None = None,
        **transform: Unpack[TransformOptions],
    ) -> None:
        config: HeadConfig = {
            **label_config(num_labels, id2label),
            "layers": layers,
            "activation_function": activation_function,
            "use_pooler": use_pooler,
            "bias": bias,
            "dropout_prob": dropout_prob,
            **transform,
        }
        super().__init__(head_name, config)
        self.build(model, num_labels)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            logits: [B, C].
            labels: as forward takes them.
        """
        return classification_loss(logits, labels)

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """Logits [B, C] of each sequence, and the loss.

        Args:
            outputs: of the base model.
            cls_output: [B, H], the vector that stands for each sequence.
            attention_mask: not used.
            labels: [B], the class of each; of several labels [B, C], 1 for those that are true; of a regression [B].
        """
        assert cls_output is not None
        logits = self.logits(cls_output)
        loss = None if labels is None else self.loss(logits, labels)
        return with_logits(_SEQUENCE_OUTPUTS, outputs, loss, logits=logits)


class MultiLabelClassificationHead(ClassificationHead):
    """Any number of labels per sequence, each true or false: targets are [B, C] of 0 and 1."""

    head_type = "multilabel_classification"

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return multilabel_loss(logits, labels)


class ImageClassificationHead(PredictionHead):
    """One class, or with ``multilabel=True`` any number of labels, per image.

    Attributes:
        output_class: transformers' class for what the head gives.
    """

    head_type = "image_classification"
    output_class: ClassVar[type[ModelOutput]] = ImageClassifierOutput

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        multilabel: bool = False,
        id2label: dict[int, str] | None = None,
        use_pooler: bool = False,
        bias: bool = True,
        dropout_prob: float | None = None,
        **transform: Unpack[TransformOptions],
    ) -> None:
        config: HeadConfig = {
            **label_config(num_labels, id2label),
            "layers": layers,
            "activation_function": activation_function,
            "multilabel": multilabel,
            "use_pooler": use_pooler,
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
        """Logits [B, C] of each image, video or sound, and the loss.

        Args:
            outputs: of the base model.
            cls_output: [B, H], the vector that stands for each of them.
            attention_mask: not used.
            labels: [B], the class of each; with several labels [B, C], 1 for those that are true.
        """
        assert cls_output is not None
        logits = self.logits(cls_output)
        compute = multilabel_loss if self.config["multilabel"] else classification_loss
        loss = None if labels is None else compute(logits, labels)
        return with_logits((self.output_class,), outputs, loss, logits=logits)


class VideoClassificationHead(ImageClassificationHead):
    """One class, or any number of labels, per video."""

    head_type = "video_classification"


class AudioClassificationHead(ImageClassificationHead):
    """One class, or any number of labels, per sound."""

    head_type = "audio_classification"
    output_class = SequenceClassifierOutput
