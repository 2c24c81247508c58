"""What every prediction head has: a name, a config that can be written to JSON, its layers in order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import nn
from transformers.activations import ACT2FN

from adapter_runtime.contract.config_values import config_value
from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.heads.sizes import feeding_config, first_dropout, head_dropout, hidden_size

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

Value = TypeVar("Value")


class PredictionHead(nn.Sequential):
    """A flexible head: takes the outputs of a base model, gives logits and, with labels, a loss.

    The layers are the children of the Sequential, so that a head "x" is saved as ``heads.x.1.weight``. A subclass sets
    `config` and calls `build`; a custom head may instead add children of its own. Its forward takes the outputs of the
    base model and, by name, those it wants of

        cls_output: [B, H], the vector that stands for the sequence; given where `is_pooled`.
        attention_mask: [B, L], 1 at real tokens.
        return_dict: always True.
        frame_mask: [B, L], true at frames of a sound that come from samples which are no padding; None = all are.
        pixel_values: [B, channels, Y, X], the images that the base model was given.
        bool_masked_pos: [B, N], which of their patches were masked; None = none.
        logits_to_keep: positions to compute logits for; given to heads that predict tokens.
        what `label_arguments` and `input_arguments` name, as far as the caller gave it.

    It returns a ModelOutput, or a dict or tuple; a "loss" in it is added to those of other heads in the same call. Without a
    forward of its own, a head is what torch's Sequential is: its layers, one after the other, on one tensor.

    Attributes:
        name: the name under which the model holds the head.
        config: what `head_config.json` says about the head, without its name.
    """

    head_type: ClassVar[str] = ""
    label_arguments: ClassVar[tuple[str, ...]] = ("labels",)  # keyword arguments of a model's forward that are targets
    input_arguments: ClassVar[tuple[str, ...]] = ()  # further keyword arguments, which the base model does not take
    is_pooled: ClassVar[bool] = True  # the head reads one vector per sequence, not one per token
    is_generative: ClassVar[bool] = False  # `generate` can sample from its logits
    layer_weights: nn.Parameter  # [N + 1], of the layers and of what enters the first, where the head weighs them

    _forward_arguments: ClassVar[frozenset[str] | None] = frozenset()  # names that forward takes; None = any

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        parameters = inspect.signature(cls.forward).parameters.values()
        takes_rest = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        cls._forward_arguments = None if takes_rest else frozenset(parameter.name for parameter in parameters)

    def __init__(self, name: str, config: HeadConfig | None = None) -> None:
        super().__init__()
        self.name = name
        self.config: HeadConfig = {"head_type": self.head_type}
        if config is not None:
            self.config.update(config)

    def build(self, model: PreTrainedModel, out_features: int | None = None) -> None:
        """Append ``layers`` times dropout and projection, with an activation, and if the config says so a norm, after each
        projection but the last. A norm may stand before all of them.

        Args:
            model: the model that the head belongs to; gives width, dropout and initialisation.
            out_features: width of the logits; None = the ``num_labels`` of the config.

        Raises:
            ValueError: the activation function of the config is unknown.
        """
        if out_features is None:
            out_features = self.config["num_labels"]
        width, given = hidden_size(feeding_config(model)), self.config.get("dropout_prob")
        if self.is_pooled and getattr(model, "pooling", "") == "both" and not self.config.get("use_pooler"):
            width *= 2
        kind, layers = (
            self.config.get("head_type", ""),
            self.config["layers"],
        )  # one of a user's own may not say its type
        dropout = head_dropout(model, kind) if given is None else given
        first = first_dropout(model, kind, layers) if given is None else given
        inner = self.config.get("projection_size") or width
        self._weigh_layers(model)
        if self.config.get("input_norm", False):
            self._append_norm(model, width)
        for _ in range(layers - 1):
            self._append(nn.Dropout(first))
            self._append_transform(model, width, inner)
            width, first = inner, dropout
        self._append(nn.Dropout(dropout))
        self._append(nn.Linear(width, out_features, bias=self.config.get("bias", True)))
        self.initialise(model)

    def _weigh_layers(self, model: PreTrainedModel) -> None:
        """Start `layer_weights`, if the config says so: all layers count the same."""
        if self.config.get("weighted_layers", False):
            count = feeding_config(model).num_hidden_layers + 1  # and what enters the first
            self.register_parameter("layer_weights", nn.Parameter(torch.full((count,), 1 / count)))

    def read(self, outputs: ModelOutput) -> ModelOutput:
        """`outputs`, with the weighted sum of all layers as ``last_hidden_state`` [B, L, H] where the head reads that.

        Raises:
            ValueError: ``hidden_states``, of N + 1 tensors [B, L, H], are missing, which ``output_hidden_states=True`` asks for.
        """
        if not self.config.get("weighted_layers", False):
            return outputs
        states = outputs.get("hidden_states")
        if states is None:
            raise ValueError(f"Head {self.name!r} weighs all layers: give the base model output_hidden_states=True.")
        shares = self.layer_weights.softmax(dim=-1).view(-1, 1, 1)  # [N + 1, 1, 1]
        summed = (torch.stack(states, dim=1) * shares).sum(dim=1)
        return type(outputs)(**{**outputs, "last_hidden_state": summed})

    def _append(self, layer: nn.Module) -> None:
        self.add_module(str(len(self)), layer)

    def _append_transform(self, model: PreTrainedModel, width: int, out_features: int) -> None:
        """Append a projection that is not the last, with what follows on it."""
        self._append(nn.Linear(width, out_features, bias=self.config.get("hidden_bias", True)))
        self._append_activation()
        if self.config.get("layer_norm", False):
            self._append_norm(model, out_features)

    def _append_norm(self, model: PreTrainedModel, width: int) -> None:
        eps = self.config.get("norm_eps", config_value(feeding_config(model), "layer_norm_eps", 1e-12))
        self._append(nn.LayerNorm(width, eps=eps, bias=self.config.get("norm_bias", True)))

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
            # While a model is loaded its tensors are of the device "meta", but for those that upstream makes by ``torch.Tensor(size)``.
            is_loading = any(tensor.is_meta for tensor in self.parameters())
            self.to(device=None if is_loading else reference.device, dtype=reference.dtype)
        self.train(model.training)

    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Run the layers: [..., H] -> [..., labels]."""
        for layer in self:
            hidden_states = layer(hidden_states)
        return hidden_states

    def taken(self, arguments: Mapping[str, Value]) -> dict[str, Value]:
        """Those of `arguments` that forward takes."""
        known = self._forward_arguments
        return {name: value for name, value in arguments.items() if known is None or name in known}

    def takes(self, argument: str) -> bool:
        """Whether `argument`, of a call of the model, is a target of this head or an input that it asks for."""
        return argument in self.label_arguments or argument in self.input_arguments

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection to the vocabulary, in a language modelling head."""
        return None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the projection to the vocabulary.

        Raises:
            TypeError: the head has none.
        """
        raise TypeError(f"The {self.head_type} head {self.name!r} has no projection to the vocabulary.")

    def get_label_names(self) -> list[str]:
        """The arguments of forward that are targets. `Trainer` takes this list as ``label_names``."""
        return list(self.label_arguments)


def label_config(num_labels: int, id2label: Mapping[int, str] | None) -> HeadConfig:
    """The config entries of a head with named labels; without names they are called "LABEL_0" and so on.

    Raises:
        ValueError: `id2label` does not name `num_labels` labels.
    """
    if id2label is None:
        id2label = {index: f"LABEL_{index}" for index in range(num_labels)}
    if len(id2label) != num_labels:
        raise ValueError(f"id2label names {len(id2label)} labels, but num_labels is {num_labels}.")
    return {"num_labels": num_labels, "label2id": {label: int(index) for index, label in id2label.items()}}
