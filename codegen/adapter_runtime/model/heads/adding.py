"""The ``add_..._head`` methods of models with flexible heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from adapter_runtime.errors import nearest
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.errors import UnsupportedHeadError
from adapter_runtime.heads.factory import head_from_config
from adapter_runtime.heads.kinds.classification import (
    AudioClassificationHead,
    ClassificationHead,
    ImageClassificationHead,
    MultiLabelClassificationHead,
    VideoClassificationHead,
)
from adapter_runtime.heads.kinds.dependency_parsing import BiaffineParsingHead
from adapter_runtime.heads.kinds.frames import AudioFrameClassificationHead, CTCHead
from adapter_runtime.heads.kinds.language_modeling import (
    BertStyleMaskedLMHead,
    CausalLMHead,
    Seq2SeqLMHead,
)
from adapter_runtime.heads.kinds.masked_image import MaskedImageModelingHead
from adapter_runtime.heads.kinds.multiple_choice import MultipleChoiceHead
from adapter_runtime.heads.kinds.question_answering import QuestionAnsweringHead
from adapter_runtime.heads.kinds.tagging import TaggingHead
from adapter_runtime.heads.kinds.xvector import XVectorHead
from adapter_runtime.heads.protocol import FlexibleHeadsModel
from adapter_runtime.heads.static import classes_for, flexible_config
from adapter_runtime.model.heads.named import check_new_head


class AddHeadsMixin:
    """One method per type of head. What all of them take, and raise:

    Args:
        head_name: the name under which the head is added, activated, saved and deleted.
        overwrite_ok: replace a head of this name.
        set_active: make it the active head.

    Raises:
        UnsupportedHeadError: upstream has no such head for this kind of model.
        ValueError: a head of this name is there already and `overwrite_ok` is false, or an option makes no sense.
    """

    head_types: ClassVar[tuple[str, ...]] = ()  # rendered: which types make sense for the model
    use_pooler: bool = False  # what ``use_pooler=None`` means

    def check_head_type(self: FlexibleHeadsModel, head_type: str) -> None:
        """Check that the model can have heads of `head_type`.

        Raises:
            UnsupportedHeadError: it cannot.
        """
        if head_type not in self.head_types:
            raise UnsupportedHeadError(
                f"{type(self).__name__} takes no head of type {head_type!r}. {nearest(head_type, self.head_types)}"
            )

    def add_classification_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: dict[int, str] | None = None,
        use_pooler: bool | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
        bias: bool = True,
    ) -> None:
        """Add a head that classifies sequences (with ``num_labels=1``: a regression).

        Args:
            num_labels: number of classes.
            layers: number of projections.
            activation_function: between the projections.
            multilabel: each label is true or false by itself.
            id2label: names of the labels.
            use_pooler: read the pooled output of the base model, not the hidden state of a token. None = as the attribute
                `use_pooler` of the model says.
            dropout_prob: None = that of the model.
            bias: of the last projection.
        """
        head_class = MultiLabelClassificationHead if multilabel else ClassificationHead
        check_addable(self, head_class, head_name, overwrite_ok)
        head = head_class(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            bias=bias,
            id2label=id2label,
            use_pooler=self.use_pooler if use_pooler is None else use_pooler,
            dropout_prob=dropout_prob,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_image_classification_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: dict[int, str] | None = None,
        use_pooler: bool | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        """Add a head that classifies images; arguments as in `add_classification_head`."""
        check_addable(self, ImageClassificationHead, head_name, overwrite_ok)
        head = ImageClassificationHead(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            multilabel=multilabel,
            id2label=id2label,
            use_pooler=self.use_pooler if use_pooler is None else use_pooler,
            dropout_prob=dropout_prob,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_masked_image_modeling_head(
        self: FlexibleHeadsModel, head_name: str, overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head that paints images of which patches are masked: ``reconstruction`` is [B, channels, Y, X].

        Targets are the images themselves. A call takes ``bool_masked_pos`` [B, patches], true at masked ones, in whose place the base model
        puts a token that this head holds. One such head can be active at a time.
        """
        check_addable(self, MaskedImageModelingHead, head_name, overwrite_ok)
        head_type = MaskedImageModelingHead.head_type
        known = (flexible_config(name, self.config) for name in classes_for(self.config))
        config = next(one for one in known if one["head_type"] == head_type)
        self.add_prediction_head(head_from_config(self, head_name, config), overwrite_ok, set_active)

    def add_video_classification_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: dict[int, str] | None = None,
        use_pooler: bool | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        """Add a head that classifies videos; arguments as in `add_classification_head`."""
        check_addable(self, VideoClassificationHead, head_name, overwrite_ok)
        head = VideoClassificationHead(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            multilabel=multilabel,
            id2label=id2label,
            use_pooler=self.use_pooler if use_pooler is None else use_pooler,
            dropout_prob=dropout_prob,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_audio_classification_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: dict[int, str] | None = None,
        use_pooler: bool | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
        projection_size: int | None = None,
        weighted_layers: bool = False,
    ) -> None:
        """Add a head that classifies sounds; further arguments as in `add_classification_head`.

        Args:
            projection_size: width behind the projections but the last; None = that of the hidden states.
            weighted_layers: read a sum of what all layers give, with weights that are the head's, and not the last hidden states.
        """
        check_addable(self, AudioClassificationHead, head_name, overwrite_ok)
        head = AudioClassificationHead(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            multilabel=multilabel,
            id2label=id2label,
            use_pooler=self.use_pooler if use_pooler is None else use_pooler,
            dropout_prob=dropout_prob,
            projection_size=projection_size,
            weighted_layers=weighted_layers,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_audio_frame_classification_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: dict[int, str] | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
        weighted_layers: bool = False,
    ) -> None:
        """Add a head that labels the frames of a sound. Targets are [B, frames, labels], 1 for the label of each.

        Args:
            weighted_layers: read a sum of what all layers give, with weights that are the head's, and not the last hidden states.
        """
        check_addable(self, AudioFrameClassificationHead, head_name, overwrite_ok)
        head = AudioFrameClassificationHead(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            id2label=id2label,
            dropout_prob=dropout_prob,
            weighted_layers=weighted_layers,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_ctc_head(
        self: FlexibleHeadsModel,
        head_name: str,
        vocab_size: int | None = None,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        set_active: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        """Add a head that writes down what is said, by connectionist temporal classification. Targets: labels, with -100 at padding.

        Args:
            vocab_size: tokens, the blank among them; None = those of the model's config. The blank is its ``pad_token_id``.
        """
        check_addable(self, CTCHead, head_name, overwrite_ok)
        head = CTCHead(
            self,
            head_name,
            vocab_size=vocab_size,
            layers=layers,
            activation_function=activation_function,
            dropout_prob=dropout_prob,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_xvector_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        tdnn_dim: Sequence[int] | None = None,
        tdnn_kernel: Sequence[int] | None = None,
        tdnn_dilation: Sequence[int] | None = None,
        xvector_output_dim: int | None = None,
        overwrite_ok: bool = False,
        id2label: dict[int, str] | None = None,
        set_active: bool = True,
        weighted_layers: bool = False,
    ) -> None:
        """Add a head that gives a vector for the voice of a sound: ``embeddings`` and ``logits`` are [B, xvector_output_dim].
        Targets are the voices that it is trained with, [B].

        Args:
            num_labels: number of voices in training.
            tdnn_dim: widths of its time delay layers; None = as the model's config says, as for the following.
            tdnn_kernel: how many frames each of these reads together.
            tdnn_dilation: how far apart these lie.
            xvector_output_dim: width of the vector.
            weighted_layers: read a sum of what all layers give, with weights that are the head's, and not the last hidden states.
            id2label: names of the voices.
        """
        check_addable(self, XVectorHead, head_name, overwrite_ok)
        head = XVectorHead(
            self,
            head_name,
            num_labels=num_labels,
            tdnn_dim=tdnn_dim,
            tdnn_kernel=tdnn_kernel,
            tdnn_dilation=tdnn_dilation,
            xvector_output_dim=xvector_output_dim,
            id2label=id2label,
            weighted_layers=weighted_layers,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_multiple_choice_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_choices: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: dict[int, str] | None = None,
        use_pooler: bool | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        """Add a head that picks one of `num_choices` answers. Inputs are [questions, choices, L]."""
        check_addable(self, MultipleChoiceHead, head_name, overwrite_ok)
        head = MultipleChoiceHead(
            self,
            head_name,
            num_choices=num_choices,
            layers=layers,
            activation_function=activation_function,
            id2label=id2label,
            use_pooler=self.use_pooler if use_pooler is None else use_pooler,
            dropout_prob=dropout_prob,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_tagging_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: dict[int, str] | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
        bias: bool = True,
    ) -> None:
        """Add a head that labels tokens."""
        check_addable(self, TaggingHead, head_name, overwrite_ok)
        head = TaggingHead(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            id2label=id2label,
            dropout_prob=dropout_prob,
            bias=bias,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_qa_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        layers: int = 1,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        id2label: dict[int, str] | None = None,
        set_active: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        """Add a head that marks the answer to a question in the text. Targets: start_positions and end_positions."""
        check_addable(self, QuestionAnsweringHead, head_name, overwrite_ok)
        head = QuestionAnsweringHead(
            self,
            head_name,
            num_labels=num_labels,
            layers=layers,
            activation_function=activation_function,
            id2label=id2label,
            dropout_prob=dropout_prob,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_dependency_parsing_head(
        self: FlexibleHeadsModel,
        head_name: str,
        num_labels: int = 2,
        overwrite_ok: bool = False,
        id2label: dict[int, str] | None = None,
        set_active: bool = True,
    ) -> None:
        """Add a head that finds the syntactic head of each word and the relation to it (https://arxiv.org/abs/2008.06788).

        A call takes word_starts, [B, up to L + 1], and the targets labels_arcs and labels_rels; see `BiaffineParsingHead`.
        """
        check_addable(self, BiaffineParsingHead, head_name, overwrite_ok)
        head = BiaffineParsingHead(self, head_name, num_labels=num_labels, id2label=id2label)
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_masked_lm_head(
        self: FlexibleHeadsModel,
        head_name: str,
        activation_function: str | None = "gelu",
        layers: int = 2,
        layer_norm: bool = True,
        bias: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = True,
    ) -> None:
        """Add a head that predicts masked tokens, tied to the input embeddings if the config says so."""
        check_addable(self, BertStyleMaskedLMHead, head_name, overwrite_ok)
        head = BertStyleMaskedLMHead(
            self,
            head_name,
            layers=layers,
            activation_function=activation_function,
            layer_norm=layer_norm,
            bias=bias,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_causal_lm_head(
        self: FlexibleHeadsModel,
        head_name: str,
        activation_function: str | None = "gelu",
        layers: int = 2,
        layer_norm: bool = True,
        bias: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = True,
        shift_labels: bool = True,
    ) -> None:
        """Add a head that predicts the next token, tied to the input embeddings if the config says so."""
        check_addable(self, CausalLMHead, head_name, overwrite_ok)
        head = CausalLMHead(
            self,
            head_name,
            shift_labels=shift_labels,
            layers=layers,
            activation_function=activation_function,
            layer_norm=layer_norm,
            bias=bias,
        )
        self.add_prediction_head(head, overwrite_ok, set_active)

    def add_seq2seq_lm_head(
        self: FlexibleHeadsModel,
        head_name: str,
        layers: int = 1,
        overwrite_ok: bool = False,
        set_active: bool = True,
    ) -> None:
        """Add a head that predicts the tokens of the decoder."""
        check_addable(self, Seq2SeqLMHead, head_name, overwrite_ok)
        head = Seq2SeqLMHead(self, head_name, layers=layers)
        self.add_prediction_head(head, overwrite_ok, set_active)


def check_addable(
    model: FlexibleHeadsModel, head_class: type[PredictionHead], head_name: str, overwrite_ok: bool
) -> None:
    """Raise, before a head is built, where it cannot be added.

    Raises:
        UnsupportedHeadError: heads of this class make no sense for the model.
        ValueError: the name is taken or cannot be a name.
    """
    model.check_head_type(head_class.head_type)
    check_new_head(model, head_name, overwrite_ok)
