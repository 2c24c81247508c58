"""The mixins that give models the methods of `ModelAdaptersMixin`, in one place for imports."""

from __future__ import annotations

from adapter_runtime.base_model import ModelBaseAdaptersMixin
from adapter_runtime.head_model import ModelUsingSubmodelsAdaptersMixin, ModelWithHeadsAdaptersMixin
from adapter_runtime.model_api import ModelAdaptersMixin

__all__ = [
    "ModelAdaptersMixin",
    "ModelBaseAdaptersMixin",
    "ModelUsingSubmodelsAdaptersMixin",
    "ModelWithHeadsAdaptersMixin",
]
