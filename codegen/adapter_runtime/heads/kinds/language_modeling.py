"""Heads that predict tokens. Their last projection can be tied to the input embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypedDict

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import (
    CausalLMOutputWithCrossAttentions,
    CausalLMOutputWithPast,
    MaskedLMOutput,
    Seq2SeqLMOutput,
)
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import ModelOutput
from typing_extensions import Unpack

from adapter_runtime.contract.head_config import HeadConfig, LogitOptions
from adapter_runtime.heads import sizes
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.kinds.losses import language_modeling_loss
from adapter_runtime.heads.outputs import CausalLMOutputWithMems, with_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ITEMS = "num_items_in_batch"  # what `Trainer` calls the number of labels of all batches of an optimiser step


class Widths(TypedDict, total=False):
    """Options of language modelling heads that are mostly left to the config of the model.

    E, the width of the last projection's inputs, is ``embedding_size``.
    """

    vocab_size: int | None
    embedding_size: int | None


class Options(Widths, LogitOptions, total=False):
    """The options that `Widths` and `LogitOptions` name."""


class Layers(Options, total=False):
    """Those, and the options of the layers before the last projection."""

    layers: int
    activation_function: str | None
    layer_norm: bool
    bias: bool


class LanguageModelingHead(PredictionHead):
    """``layers - 1`` times projection, activation and norm, then the projection to the vocabulary.

    Attributes:
        output_classes: transformers' classes for what the head gives, from the narrowest to the widest.
        scale: factor of the hidden states before the layers.
        skips_padding: the loss leaves out the labels of padding, whatever they are, as upstream's class does (Qwen2-Audio).
        compares_end: the labels are of the last positions, since an image stands before the text, as in upstream's class (GIT).
        logits_bias: [1, V], what is added to the logits and not trained, where the config asks for it.
    """

    is_pooled = False
    input_arguments = (ITEMS,)
    logits_bias: torch.Tensor
    output_classes: ClassVar[tuple[type[ModelOutput], ...]]

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        vocab_size: int | None = None,
        embedding_size: int | None = None,
        layers: int = 1,
        activation_function: str | None = None,
        layer_norm: bool = False,
        bias: bool = False,
        shift_labels: bool = False,
        **rest: Unpack[LogitOptions],
    ) -> None:
        of_model = sizes.feeding_config(model)
        config: HeadConfig = {
            "vocab_size": vocab_size or sizes.vocabulary_size(of_model),
            "embedding_size": embedding_size or sizes.embedding_size(of_model),
            "layers": layers,
            "activation_function": activation_function,
            "layer_norm": layer_norm,
            "bias": bias,
            "shift_labels": shift_labels,
            "label2id": None,
        }
        super().__init__(head_name, {**config, **rest})
        self.build(model)

    def build(self, model: PreTrainedModel, out_features: int | None = None) -> None:
        config = sizes.feeding_config(model)
        width, embedding = sizes.hidden_size(config), self.config["embedding_size"]
        self.scale = self.config.get("input_scale", sizes.input_scale(config))
        of_upstream = sizes.upstream_head(model, self.head_type)
        self.skips_padding = self.config.get("skip_padding", of_upstream.get("skip_padding", False))
        self.compares_end = self.config.get("labels_of_end", of_upstream.get("labels_of_end", False))
        for _ in range(self.config["layers"] - 1):
            self._append_transform(model, width, embedding)
            width = embedding
        self._append(nn.Linear(width, out_features or self.config["vocab_size"], bias=self.config["bias"]))
        if self.config.get("logits_bias", False):
            self.register_buffer("logits_bias", torch.zeros(1, self.config["vocab_size"]))
        self.initialise(model)

    def get_output_embeddings(self) -> nn.Module:
        return self[-1]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        weight = new_embeddings.weight
        assert isinstance(weight, torch.Tensor)
        self[len(self) - 1] = new_embeddings
        self.config["vocab_size"] = weight.shape[0]
        if "logits_bias" in self._buffers:
            added = weight.shape[0] - self.logits_bias.shape[1]
            self.logits_bias = functional.pad(self.logits_bias, (0, added))  # new tokens get 0; a negative number cuts

    def forward(
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        inverse: Callable[[torch.Tensor], torch.Tensor] | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> ModelOutput:
        """Logits over the vocabulary, [B, L, V] or fewer where the head has ``kept_tokens``, and the loss.

        Args:
            outputs: of the base model; ``last_hidden_state`` is [B, L, H].
            cls_output: not used.
            attention_mask: [B, L], 1 at labels that count, where the head has ``skip_padding``; else not used.
            labels: [B, L], or [B, M] of the last positions where the head has ``labels_of_end``; -100 is ignored.
            logits_to_keep: compute logits only for that many last positions, or those positions; 0 keeps all.
            inverse: what undoes invertible adapters, [B, L, E] -> [B, L, E]; runs before the last projection.
            num_items_in_batch: labels that count, over all batches whose losses are summed; None = the mean of this one's.
        """
        hidden_states = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        if self.scale != 1.0:
            hidden_states = hidden_states * self.scale
        logits = self.logits(hidden_states) if inverse is None else self._inverted(hidden_states, inverse)
        logits = self._finished(logits)
        mask = attention_mask if self.skips_padding else None
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch, mask)
        return with_logits(self.output_classes, outputs, loss, logits=logits)

    def _finished(self, logits: torch.Tensor) -> torch.Tensor:
        """What some of upstream's heads do with the logits [B, L, V] in the end."""
        scale, cap = self.config.get("logit_scale", 1.0), self.config.get("logit_softcap")
        if self.config.get("logits_bias", False):
            logits = logits + self.logits_bias
        if scale != 1.0:
            logits = logits * scale
        logits = logits if not cap else torch.tanh(logits / cap) * cap
        return logits[..., : self.config.get("kept_tokens")]

    def _loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        items: torch.Tensor | int | None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `language_modeling_loss`."""
        if self.compares_end:
            logits = logits[:, -labels.shape[1] :]
        return language_modeling_loss(logits, labels, self.config["shift_labels"], items, mask)

    def _inverted(self, hidden_states: torch.Tensor, inverse: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Run the layers with `inverse` before the last one: [B, L, H] -> [B, L, V]."""
        *transform, projection = self
        for layer in transform:
            hidden_states = layer(hidden_states)
        logits: torch.Tensor = projection(inverse(hidden_states))
        return logits


class BertStyleMaskedLMHead(LanguageModelingHead):
    """Predicts the masked tokens; by default with BERT's transform before the projection."""

    head_type = "masked_lm"
    output_classes = (MaskedLMOutput,)

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        layers: int = 2,
        activation_function: str | None = "gelu",
        layer_norm: bool = True,
        bias: bool = True,
        shift_labels: bool = False,
        **config: Unpack[Options],
    ) -> None:
        super().__init__(
            model,
            head_name,
            layers=layers,
            activation_function=activation_function,
            layer_norm=layer_norm,
            bias=bias,
            shift_labels=shift_labels,
            **config,
        )


class CausalLMHead(LanguageModelingHead):
    """Predicts the next token; `generate` samples from it."""

    head_type = "causal_lm"
    is_generative = True
    output_classes = (CausalLMOutputWithPast, CausalLMOutputWithCrossAttentions, CausalLMOutputWithMems)

    def __init__(
        self,
        model: PreTrainedModel,
        head_name: str,
        shift_labels: bool = True,
        dropout_prob: float | None = None,
        **config: Unpack[Layers],
    ) -> None:
        """`dropout_prob` is in the config of files, and without effect: language modelling heads have no dropout."""
        super().__init__(model, head_name, shift_labels=shift_labels, **config)
        self.config["dropout_prob"] = dropout_prob


class Seq2SeqLMHead(LanguageModelingHead):
    """Predicts the tokens of the decoder, whose inputs are already shifted."""

    head_type = "seq2seq_lm"
    is_generative = True
    output_classes = (Seq2SeqLMOutput,)
