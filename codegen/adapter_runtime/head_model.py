"""Models around a base model: upstream's classes with a head, and models made of several models."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from adapter_runtime.base_model import ModelBaseAdaptersMixin, wrap_checkpoints
from adapter_runtime.context import ContextScope, ForwardContext
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.model_api import ModelAdaptersMixin


class ModelWithHeadsAdaptersMixin(ModelAdaptersMixin):
    """Base of models with heads. The adapters belong to the base model."""

    @property
    def adapters_base(self) -> ModelBaseAdaptersMixin:
        base = self.base_model
        if not isinstance(base, ModelBaseAdaptersMixin):
            raise UnsupportedModelError(
                f"The base model of {type(self).__name__}, a {type(base).__name__}, has no adapters. Call init(model) first."
            )
        return base

    @property
    def generate(self) -> Callable[..., Any]:
        """See transformers. Prefixes are computed once, not at each step.

        This is a property, so that models of upstream's that cannot generate still have no such attribute.
        """
        upstream = super().generate

        @functools.wraps(upstream)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with ContextScope(ForwardContext(self.adapters_base)):
                return upstream(*args, **kwargs)

        return generate

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        super()._set_gradient_checkpointing(*args, **kwargs)
        wrap_checkpoints(self)


class ModelUsingSubmodelsAdaptersMixin(ModelBaseAdaptersMixin):
    """Base of models made of whole models. Their layers are counted one model after the other."""
