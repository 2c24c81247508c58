"""Loading checkpoints into models with flexible heads, those of upstream's classes with a static head included."""

from __future__ import annotations

import copy
import os
from typing import Any, ClassVar

from adapter_runtime.files.api.checkpoints import (
    ReadCheckpointsMixin,
    architecture_of,
    forget_renaming,
    resolve_config,
)
from adapter_runtime.heads.static import DEFAULT_NAME, flexible_config, is_static, key_mapping, unmet


class LoadPretrainedMixin(ReadCheckpointsMixin):
    """`from_pretrained` of models with flexible heads."""

    encoder_heads: ClassVar[tuple[str, ...]] = ()  # rendered: types that read what an encoder gives

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """See transformers. A checkpoint of a class with a static head gives a model with a flexible head "default"."""
        given = kwargs.pop("config", None)
        config, kwargs = resolve_config(cls.config_class, pretrained_model_name_or_path, given, kwargs)
        architecture = architecture_of(config)
        has_heads = bool(getattr(config, "prediction_heads", None))
        if architecture is None or has_heads or not is_static(architecture) or unmet(architecture, config):
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        config = copy.deepcopy(config)  # it may be the caller's
        head = flexible_config(architecture, config)
        config.prediction_heads = {DEFAULT_NAME: head}
        if head["head_type"] in cls.encoder_heads:
            config.is_encoder_decoder = True  # T5's class of an encoder alone says the contrary, of itself
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
        return (model, info) if wants_info else model
