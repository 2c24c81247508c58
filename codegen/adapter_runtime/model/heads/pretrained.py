"""Loading checkpoints into models with flexible heads, those of upstream's classes with a static head included."""

from __future__ import annotations

import copy
import logging
import os
from typing import Any

from transformers import PreTrainedModel

from adapter_runtime.files.api.checkpoints import (
    ReadCheckpointsMixin,
    architecture_of,
    forget_renaming,
    resolve_config,
)
from adapter_runtime.heads.static import DEFAULT_NAME, flexible_config, is_static, key_mapping, unmet

logger = logging.getLogger(__name__)


class LoadPretrainedMixin(ReadCheckpointsMixin):
    """`from_pretrained` of models with flexible heads."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """See transformers. A checkpoint of a class with a static head gives a model with a flexible head "default"."""
        given = kwargs.pop("config", None)
        config, kwargs = resolve_config(cls.config_class, pretrained_model_name_or_path, given, kwargs)
        architecture = architecture_of(config)
        has_heads = bool(getattr(config, "prediction_heads", None))
        if architecture is None or has_heads or not is_static(architecture) or unmet(architecture, config):
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        config = copy.deepcopy(config)  # it may be the caller's
        config.prediction_heads = {DEFAULT_NAME: flexible_config(architecture, config)}
        renamed = {
            **key_mapping(architecture, DEFAULT_NAME, cls.base_model_prefix),
            **(kwargs.pop("key_mapping", None) or {}),
        }
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            config=config,
            key_mapping=renamed,
            output_loading_info=True,
            **kwargs,
        )
        forget_renaming(model)
        if info["missing_keys"]:
            _warn_of_random_parts(model, architecture, frozenset(info["missing_keys"]))
        return (model, info) if wants_info else model


def _warn_of_random_parts(model: PreTrainedModel, architecture: str, missing: frozenset[str]) -> None:
    """Name the whole models inside of `model` of which a checkpoint of another class has nothing: CLIPForImageClassification's has no text.

    Args:
        architecture: upstream's class, whose checkpoint it is.
        missing: names of parameters that it lacks.
    """
    found: list[str] = []
    for path, module in model.named_modules():
        if module is model.base_model or not path or not isinstance(module, PreTrainedModel):
            continue
        keys = {f"{path}.{name}" for name, _ in module.named_parameters()}
        if keys and keys <= missing and not any(path.startswith(f"{one}.") for one in found):
            found.append(path)
    if found:
        beside = {
            key.removesuffix(".weight").removesuffix(".bias") for key in missing if not key.startswith(tuple(found))
        }
        logger.warning(
            "A checkpoint of %s has nothing of %s, which begin(s) with random values in this %s. Its head %r does not run them. To use"
            " them, load a checkpoint that has them, and add the head to that: %s.from_pretrained(...), add_..._head(...).",
            architecture,
            ", ".join((*found, *sorted(beside))),
            type(model).__name__,
            DEFAULT_NAME,
            type(model).__name__,
        )
