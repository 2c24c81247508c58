"""Where in a model the base model is that classes were generated for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.contract.registry import load_class, registered
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.model.base import ModelBaseAdaptersMixin

logger = logging.getLogger(__name__)


def qualified_name(cls: type) -> str:
    """``transformers.models.llama.modeling_llama.LlamaModel``"""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_covered(module: nn.Module) -> bool:
    """Whether `module` is a whole model whose class has a generated mixin, or has it already."""
    if isinstance(module, ModelBaseAdaptersMixin) or not isinstance(module, PreTrainedModel):
        return isinstance(module, ModelBaseAdaptersMixin)
    config: PreTrainedConfig = module.config
    registry, name = registered().of_type(config.model_type), qualified_name(type(module))
    ours = registry.with_adapters.get(name) or registry.model_mixins.get(name)
    return ours is not None and issubclass(load_class(ours), ModelBaseAdaptersMixin)


def covered_base(model: PreTrainedModel) -> PreTrainedModel:
    """The base model that `init` turns: `model`, what upstream calls its base model, or the one model that it holds.

    Where none of them is covered, what upstream calls the base model.

    Raises:
        UnsupportedModelError: the model holds several that are covered, and none of them is its base model.
    """
    for candidate in (model, model.base_model):
        if is_covered(candidate):
            return candidate
    parts = dict(_models_in(model))
    covered = [name for name, part in parts.items() if is_covered(part)]
    if len(covered) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} (type {model.config.model_type!r}) is made of several models with adapter classes:"
            f" {', '.join(covered)}. They cannot have adapters together yet. Turn one of them: init(model.{covered[0]})."
        )
    if not covered:
        return model.base_model
    others = [name for name in parts if name not in covered]
    if others:
        logger.warning(
            "%s: adapters go into %s; other models in it have none: %s.",
            type(model).__name__,
            covered[0],
            ", ".join(others),
        )
    return parts[covered[0]]


def _models_in(model: PreTrainedModel) -> Iterator[tuple[str, PreTrainedModel]]:
    """The whole models among the attributes of a model."""
    for name, child in model.named_children():
        if isinstance(child, PreTrainedModel):
            yield name, child
