"""What every prediction head has: a name, a config that can be written to JSON, its layers in order."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from adapter_runtime.heads.sizes import head_dropout, hidden_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PredictionHead(nn.Sequential):
    """A flexible head: takes the outputs of a base model, gives logits and, with labels, a loss.

    The layers are the children of the Sequential, so that a head "x" is saved as ``heads.x.1.weight``. A subclass sets
    `config` and calls `build`; a custom head may instead add children of its own.

    Attributes:
        name: the name under which the model holds the head.
        config: what `head_config.json` says about the head, without its name.
    """

    head_type: ClassVar[str] = ""
    label_arguments: ClassVar[tuple[str, ...]] = ("labels",)  # keyword arguments of a model's forward that are targets
    is_pooled: ClassVar[bool] = False  # the head reads one vector per sequence, not one per token
    is_generative: ClassVar[bool] = False  # `generate` can sample from its logits

    def __init__(self, name: str, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.name = name
        self.config: dict[str, Any] = {"head_type": self.head_type, **(config or {})}

    def build(self, model: PreTrainedModel, out_features: int) -> None:
        """Append ``layers`` times dropout and projection, with an activation after each projection but the last.

        Args:
            model: the model that the head belongs to; gives width, dropout and initialisation.
            out_features: width of the logits.
        """
        width, dropout = hidden_size(model.config), self.config.get("dropout_prob")
        if dropout is None:
            dropout = head_dropout(model.config)
        bias = self.config.get("bias", True)
        last = self.config["layers"] - 1
        for index in range(last + 1):
            self._append(nn.Dropout(dropout))
            self._append(
                nn.Linear(width, out_features if index == last else width, bias=bias if index == last else True)
            )
            if index != last:
                self._append_activation()
        self.initialise(model)

    def _append(self, layer: nn.Module) -> None:
        self.add_module(str(len(self)), layer)

    def _append_activation(self) -> None:
        name = self.config.get("activation_function")
        if name is None:
            return
        if name not in ACT2FN:
            raise ValueError(f"Unknown activation function {name!r}. There are: {', '.join(sorted(ACT2FN))}.")
        self._append(ACT2FN[name])

    def initialise(self, model: PreTrainedModel) -> None:
        """Initialise the head as `model` initialises its own layers, and move it to where the model is."""
        for module in self.modules():
            model._init_weights(module)
        tensors = chain(model.parameters(), model.buffers())
        reference = next((tensor for tensor in tensors if tensor.is_floating_point()), None)
        if reference is not None:
            self.to(device=reference.device, dtype=reference.dtype)
        self.train(model.training)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Run the layers."""
        for layer in self:
            hidden_states = layer(hidden_states)
        return hidden_states

    def forward(  # type: ignore[override]
        self,
        outputs: ModelOutput,
        cls_output: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **labels: torch.Tensor | None,
    ) -> ModelOutput:
        """Logits and loss.

        Args:
            outputs: of the base model; ``outputs.last_hidden_state`` has shape (batch, length, hidden).
            cls_output: (batch, hidden), the vector that stands for the sequence; given where `is_pooled`.
            attention_mask: (batch, length), 1 at real tokens.
            labels: the arguments named by `label_arguments`, as far as the caller gave them.
        """
        raise NotImplementedError

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection to the vocabulary, in a language modelling head."""
        return None

    def get_label_names(self) -> list[str]:
        """The arguments of forward that are targets. `Trainer` takes this list as ``label_names``."""
        return list(self.label_arguments)


def label_config(num_labels: int, id2label: dict[int, str] | None) -> dict[str, Any]:
    """The config entries of a head with named labels.

    Raises:
        ValueError: `id2label` does not name `num_labels` labels.
    """
    if id2label is not None and len(id2label) != num_labels:
        raise ValueError(f"id2label names {len(id2label)} labels, but num_labels is {num_labels}.")
    label2id = None if id2label is None else {label: int(index) for index, label in id2label.items()}
    return {"num_labels": num_labels, "label2id": label2id}
