"""What makes a model one with flexible heads."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from adapter_runtime.context import AdapterSetup
from adapter_runtime.errors import nearest
from adapter_runtime.files.names import check_name
from adapter_runtime.heads.adding import AddHeadsMixin
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.errors import UnknownHeadError
from adapter_runtime.heads.factory import head_from_config
from adapter_runtime.heads.pooling import Pooling, pool
from adapter_runtime.heads.sizes import config_value
from adapter_runtime.heads.static import DEFAULT_NAME, flexible_config, is_static, key_mapping
from adapter_runtime.model_mixin import ModelWithHeadsAdaptersMixin
from adapter_runtime.wrapping import init


class ModelWithFlexibleHeadsAdaptersMixin(AddHeadsMixin, ModelWithHeadsAdaptersMixin):
    """Base of the generated ``<Model>AdapterModel`` classes: any number of heads, one of them active.

    A generated class creates its base model, calls `init_adapter_model`, and ends its forward with `forward_head`.
    """

    pooling: ClassVar[Pooling] = "first"  # rendered: which token stands for a sequence
    # Trainer would else leave out the division by the number of accumulation steps, which our losses count on.
    accepts_loss_kwargs = False

    heads: nn.ModuleDict

    def init_adapter_model(self) -> None:
        """Finish the constructor: adapters and heads that the config names, then upstream's own last step."""
        init(self)
        self.heads = nn.ModuleDict()
        self.active_head = None
        configs = dict(getattr(self.config, "prediction_heads", None) or {})
        self.config.prediction_heads = {}
        for name, config in configs.items():
            self.add_prediction_head_from_config(name, config)
        self.post_init()

    # Heads by name

    def add_prediction_head(self, head: PredictionHead, overwrite_ok: bool = False, set_active: bool = True) -> None:
        """Add a head that was built for this model.

        Raises:
            ValueError: the name is taken or cannot be a name.
        """
        check_name(head.name, "head")
        if head.name in self.heads and not overwrite_ok:
            raise ValueError(f"The model has a head {head.name!r}. Delete it first, or pass overwrite_ok=True.")
        self.heads[head.name] = head
        self.config.prediction_heads[head.name] = head.config
        self._tie_head(head)
        if set_active:
            self.active_head = head.name

    def add_prediction_head_from_config(
        self, head_name: str, config: Mapping[str, Any], overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add the head that `config`, as in ``head_config.json``, describes."""
        head = head_from_config(self, head_name, config)
        self.add_prediction_head(head, overwrite_ok=overwrite_ok, set_active=set_active)

    def delete_head(self, head_name: str | None = None) -> None:
        """Remove a head, by default the active one.

        Raises:
            UnknownHeadError: there is no such head.
        """
        name = self._head(head_name or self.active_head).name
        del self.heads[name]
        del self.config.prediction_heads[name]
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
        if self.active_head == name:
            self.active_head = None

    def get_prediction_heads_config(self) -> dict[str, dict[str, Any]]:
        """Name -> config of all heads."""
        return {name: dict(self._head(name).config) for name in self.heads}

    @property
    def active_head(self) -> str | None:
        """The head that a forward runs. None: the outputs of the base model are returned."""
        return self._active_head

    @active_head.setter
    def active_head(self, name: str | None) -> None:
        self._active_head = None if name is None else self._head(name).name

    def set_active_adapters(self, adapter_setup: Any, skip_layers: Any = None) -> None:
        """Activate adapters, and the head that has the name of the last of them, if there is one."""
        super().set_active_adapters(adapter_setup, skip_layers)
        active = self.active_adapters
        last = active.last() if active is not None else None
        if last is not None and last in self.heads:
            self.active_head = last

    def _head(self, name: str | None) -> PredictionHead:
        if not isinstance(name, str) or name not in self.heads:
            raise UnknownHeadError(f"The model has no head {name!r}. {nearest(str(name), self.heads)}")
        head = self.heads[name]
        assert isinstance(head, PredictionHead)
        return head

    def get_labels_dict(self, head_name: str | None = None) -> dict[int, str] | None:
        """Index -> name of the labels of a head, by default the active one; None where they have no names."""
        label2id = self._head(head_name or self.active_head).config.get("label2id")
        return None if label2id is None else {index: label for label, index in label2id.items()}

    def get_labels(self, head_name: str | None = None) -> list[str] | None:
        """The names of the labels in the order of their indices."""
        labels = self.get_labels_dict(head_name)
        return None if labels is None else [labels[index] for index in sorted(labels)]

    # Running

    def forward_head(
        self,
        outputs: ModelOutput,
        head: str | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **labels: torch.Tensor | None,
    ) -> ModelOutput:
        """Run a head on the outputs of the base model.

        Args:
            outputs: of the base model.
            head: the head to run; None = that of an enclosing `AdapterSetup`, else the active one.
            input_ids: (batch, length), to find the token that stands for the sequence.
            attention_mask: (batch, length), 1 at real tokens.
            logits_to_keep: for language modelling heads, the positions to compute logits for; 0 = all.
            labels: targets; each head takes those that it declares in `label_arguments`.

        Raises:
            UnknownHeadError: there is no such head.
            ValueError: targets were given that the head does not take.
        """
        name = head or AdapterSetup.get_context_head_setup() or self.active_head
        labels = {key: value for key, value in labels.items() if value is not None}
        if name is None:
            if labels:
                raise ValueError(f"Got {', '.join(labels)}, but no head is active. Add one: add_..._head(name).")
            return outputs
        module = self._head(name)
        _check_labels(module, labels)
        options: dict[str, Any] = dict(labels)
        if module.is_pooled:
            options["cls_output"] = self.pooled(module, outputs, input_ids, attention_mask)
        elif module.get_output_embeddings() is not None:
            options["logits_to_keep"] = logits_to_keep
        return module(outputs, attention_mask=attention_mask, **options)

    def pooled(
        self,
        head: PredictionHead,
        outputs: ModelOutput,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The vector (batch, hidden) that stands for each sequence."""
        if head.config.get("use_pooler"):
            pooled: torch.Tensor | None = outputs.get("pooler_output")
            if pooled is None:
                raise ValueError(f"Head {head.name!r} has use_pooler=True, but the base model gives no pooled output.")
            return pooled
        config = self.config
        return pool(
            outputs["last_hidden_state"],
            self.pooling,
            input_ids,
            attention_mask,
            pad_token_id=config_value(config, "pad_token_id"),
            eos_token_id=config_value(config, "eos_token_id"),
        )

    @staticmethod
    def flatten_choices(**inputs: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
        """Inputs of a multiple choice question, (batch, choices, length), as (batch * choices, length).

        Other inputs stay as they are: whether there are choices shows in the rank of input_ids or inputs_embeds.
        """
        ranks = {"input_ids": 3, "inputs_embeds": 4}
        given = {name: inputs.get(name) for name in ranks}
        if not any(tensor is not None and tensor.dim() == ranks[name] for name, tensor in given.items()):
            return inputs
        return {name: None if tensor is None else tensor.flatten(0, 1) for name, tensor in inputs.items()}

    # Embeddings of the vocabulary

    def get_output_embeddings(self) -> nn.Module | None:
        """The projection to the vocabulary of the active head."""
        return None if self.active_head is None else self._head(self.active_head).get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the projection to the vocabulary of the active head."""
        if self.get_output_embeddings() is not None:
            head = self._head(self.active_head)
            head[len(head) - 1] = new_embeddings

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """What upstream ties if the config says so: the projections of language modelling heads, to the input embeddings.

        Upstream keeps this on the class; heads come and go, so here it belongs to the object.
        """
        heads: dict[str, PredictionHead] = {name: self._head(name) for name in getattr(self, "heads", ())}
        projections = {
            f"heads.{name}.{len(head) - 1}.weight"
            for name, head in heads.items()
            if head.get_output_embeddings() is not None
        }
        if not projections:
            return {}
        embeddings = self.get_input_embeddings()
        source = next(f"{name}.weight" for name, module in self.named_modules() if module is embeddings)
        return dict.fromkeys(sorted(projections), source)

    def _tie_head(self, head: PredictionHead) -> None:
        """Tie a head that is added after construction; before, upstream's `post_init` does."""
        if not hasattr(self, "all_tied_weights_keys"):
            return
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
        projection = head.get_output_embeddings()
        if projection is not None and any(key.startswith(f"heads.{head.name}.") for key in self.all_tied_weights_keys):
            projection.weight = self.get_input_embeddings().weight

    # Loading

    @classmethod
    def is_custom_code(cls) -> bool:
        """Upstream renames keys of old checkpoints only for code that it knows; what we wrap is such code."""
        return False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """See transformers. A checkpoint of a class with a static head gives a model with a flexible head "default"."""
        config, kwargs = _resolve_config(cls, pretrained_model_name_or_path, kwargs)
        architecture = (config.architectures or [None])[0]
        if not is_static(architecture) or getattr(config, "prediction_heads", None):
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        config = copy.deepcopy(config)  # it may be the caller's
        config.prediction_heads = {DEFAULT_NAME: flexible_config(architecture, config)}
        renamed = {
            **key_mapping(architecture, DEFAULT_NAME, cls.base_model_prefix),
            **(kwargs.pop("key_mapping", None) or {}),
        }
        loaded = super().from_pretrained(
            pretrained_model_name_or_path, *args, config=config, key_mapping=renamed, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        # Upstream would undo the renaming when it saves; what we save is a flexible head.
        model.__dict__.pop("_weight_conversions", None)
        return loaded


def _check_labels(head: PredictionHead, labels: Mapping[str, Any]) -> None:
    for name in labels:
        if name not in head.label_arguments:
            takes = " and ".join(head.label_arguments)
            raise ValueError(f"The {head.head_type} head {head.name!r} takes {takes}, not {name}.")


def _resolve_config(
    cls: Any, source: str | os.PathLike[str], kwargs: dict[str, Any]
) -> tuple[PreTrainedConfig, dict[str, Any]]:
    """The config of a checkpoint, with the options in `kwargs` that belong to it, and the other arguments."""
    config = kwargs.pop("config", None)
    if isinstance(config, PreTrainedConfig):
        return config, kwargs
    of_config = {name: value for name, value in kwargs.items() if name not in _OF_THE_MODEL}
    config, unused = cls.config_class.from_pretrained(
        source if config is None else config, return_unused_kwargs=True, **of_config
    )
    of_model = {name: value for name, value in kwargs.items() if name in _OF_THE_MODEL | _OF_BOTH}
    return config, {**unused, **of_model}


# Arguments of from_pretrained that a config would take for values of its own, ...
_OF_THE_MODEL = frozenset({"attn_implementation", "dtype", "quantization_config", "torch_dtype"})
# ... and those by which both the config and the weights are found.
_OF_BOTH = frozenset({"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"})
