"""Classes of upstream with a head that hold the layers of their base model themselves: T5ForConditionalGeneration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from adapter_runtime.composition import Setup
from adapter_runtime.contract.summary import HeadSummary
from adapter_runtime.methods.invertible.api import WatchesProjectionMixin
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.head_model import GenerationAdaptersMixin
from adapter_runtime.model.heads.labels import StaticLabelsMixin


class OwnHeadAdaptersMixin(StaticLabelsMixin, WatchesProjectionMixin, ModelBaseAdaptersMixin, GenerationAdaptersMixin):
    """Base of generated mixins of base models that are also models with a head."""

    head_modules: ClassVar[tuple[str, ...]] = ()  # attributes that the base model does not have

    def runs_head(self, head: Setup = None) -> bool:
        """Whether a forward ends in a head: it always does."""
        return True

    def is_of_head(self, key: str) -> bool:
        """Whether the tensor of this name in the state dict is of a module that the base model does not have."""
        return key.partition(".")[0] in self.head_modules

    def summarized_heads(self) -> list[HeadSummary]:
        """The modules that the base model does not have: they always run."""
        named = ((name, getattr(self, name)) for name in self.head_modules)
        return [HeadSummary(name, "static", True, child) for name, child in named if isinstance(child, nn.Module)]

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but those of the head alone."""
        for name, parameter in self.named_parameters():  # one that is tied has the name of its first place
            if not self.is_of_head(name):
                yield parameter
