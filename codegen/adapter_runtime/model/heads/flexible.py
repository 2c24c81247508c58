"""What makes a model one with flexible heads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn

from adapter_runtime.composition import Setup
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.summary import HeadSummary
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.custom import HeadClass
from adapter_runtime.heads.kinds.language_modeling import ITEMS
from adapter_runtime.heads.protocol import active_heads, all_heads
from adapter_runtime.heads.setups import head_names, heads_of
from adapter_runtime.model.head_model import ModelWithHeadsAdaptersMixin
from adapter_runtime.model.heads.adapter_model import AdapterModelMixin
from adapter_runtime.model.heads.adding import AddHeadsMixin
from adapter_runtime.model.heads.exporting import ExportHeadsMixin
from adapter_runtime.model.heads.named import NamedHeadsMixin
from adapter_runtime.model.heads.pretrained import LoadPretrainedMixin
from adapter_runtime.model.heads.running import RunHeadsMixin
from adapter_runtime.model.heads.vocabulary import VocabularyHeadsMixin
from adapter_runtime.model.init import init


class ModelWithFlexibleHeadsAdaptersMixin(
    RunHeadsMixin,
    NamedHeadsMixin,
    AddHeadsMixin,
    VocabularyHeadsMixin,
    ExportHeadsMixin,
    LoadPretrainedMixin,
    AdapterModelMixin,
    ModelWithHeadsAdaptersMixin,
):
    """Base of the generated ``<Model>AdapterModel`` classes: any number of heads, of which one or several are active.

    A generated class creates its base model, calls `init_adapter_model`, and ends its forward with `forward_head`.

    Attributes:
        use_pooler: whether heads that read one vector per sequence take the pooled output of the base model, where the
            ``add_..._head`` that adds them does not say.
        head_config: path, in the config, of that of the part whose hidden states the heads read; "" = the config itself.
        head_part: path, in the base model, of the part that runs alone where a head does; "" = the base model runs.
    """

    head_config: ClassVar[str] = ""
    head_part: ClassVar[str] = ""

    def init_adapter_model(self) -> None:
        """Finish the constructor: adapters and heads that the config names, then upstream's own last step."""
        init(self)
        self.heads = nn.ModuleDict()
        self.custom_heads: dict[str, HeadClass] = {}
        self._active_head = None
        configs = dict(getattr(self.config, "prediction_heads", None) or {})
        self.config.prediction_heads = {}
        for name, config in configs.items():
            self.add_prediction_head_from_config(name, config)
        self.post_init()

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether `Trainer` may leave the division by the number of labels of a step to the loss: it asks for this name."""
        heads = active_heads(self)
        return len(heads) == 1 and heads[0].takes(ITEMS)

    @property
    def unrepeated_arguments(self) -> frozenset[str]:
        """Targets are the same for the copies of a batch that parallel adapters get."""
        heads: list[PredictionHead | HeadClass] = [*HEAD_CLASSES.values(), *all_heads(self)]
        return frozenset(name for head in heads for name in head.label_arguments)

    def adapter_to(
        self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move the modules of an adapter, and the head of its name but for weights that are those of the base model.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        super().adapter_to(name, device, dtype)
        if name in self.heads:
            shared = {id(parameter) for parameter in self.adapters_base.parameters()}
            for tensor in self.heads[name].parameters():
                if id(tensor) not in shared:
                    tensor.data = tensor.data.to(device=device, dtype=dtype)

    def summarized_heads(self) -> list[HeadSummary]:
        """The heads by name."""
        active = head_names(self.active_head)
        return [
            HeadSummary(head.name, head.config.get("head_type", head.head_type), head.name in active, head)
            for head in all_heads(self)
        ]

    def set_active_adapters(self, adapter_setup: Setup, skip_layers: Iterable[int] | None = None) -> None:
        """Activate adapters, and the heads that go by their names.

        The last block of a `Stack` decides: a name is the head of this name; `Parallel` gives a list of heads, `BatchSplit`
        one of heads. If there are no such heads, or it is another block, the active heads stay.
        """
        with unchanged_on_error(self, self.adapters_config):
            super().set_active_adapters(adapter_setup, skip_layers)
            heads = heads_of(self.active_adapters)
            if heads is not None and all(name in self.heads for name in head_names(heads)):
                self.active_head = heads
