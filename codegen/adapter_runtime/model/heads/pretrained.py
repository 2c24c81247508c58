"""Loading checkpoints into models with flexible heads, those of upstream's classes with a static head included."""

from __future__ import annotations

import copy
import logging
import os
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.heads.static import DEFAULT_NAME, flexible_config, is_static, key_mapping, unmet
from adapter_runtime.programs.dynamic import DynamicMixin

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


class LoadPretrainedMixin(DynamicMixin):
    """`from_pretrained` of models with flexible heads."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """See transformers. A checkpoint of a class with a static head gives a model with a flexible head "default".

        Where no flexible head computes what that class does, a warning says that its head is left out.
        """
        given = kwargs.pop("config", None)
        config, kwargs = _resolve_config(cls.config_class, pretrained_model_name_or_path, given, kwargs)
        architecture = (config.architectures or [None])[0]
        has_heads = bool(getattr(config, "prediction_heads", None))
        if has_heads or not is_static(architecture) or unmet(architecture, config):
            loaded = super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
            if architecture is not None and not has_heads:
                _tell_what_is_lost(loaded[0] if isinstance(loaded, tuple) else loaded, architecture)
            return loaded
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


def _tell_what_is_lost(model: PreTrainedModel, architecture: str) -> None:
    """Warn where a checkpoint is that of a class with a head, of which the model has none now."""
    own = {cls.__name__ for part in (model, model.base_model) for cls in type(part).__mro__}
    if architecture in own:
        return
    reason = "no flexible head computes what that one does"
    if is_static(architecture):
        reason = f"it is one of a kind that this library does not have: {'; '.join(unmet(architecture, model.config))}"
    logger.warning(
        "The checkpoint is that of a %s. Its head is not loaded: %s. The model has no head; add one with add_..._head, or"
        " call init on upstream's own class.",
        architecture,
        reason,
    )


def _resolve_config(
    config_class: type[PreTrainedConfig],
    source: str | os.PathLike[str],
    given: PreTrainedConfig | str | os.PathLike[str] | None,
    kwargs: dict[str, Value],
) -> tuple[PreTrainedConfig, dict[str, Value]]:
    """The config of a checkpoint, with the options in `kwargs` that belong to it, and the other arguments.

    Args:
        config_class: of the model.
        source: folder or repository of the checkpoint.
        given: the argument ``config``: the config itself, or a folder or repository of it.
        kwargs: the other arguments of `from_pretrained`.
    """
    if isinstance(given, PreTrainedConfig):
        return given, kwargs
    of_config = {name: value for name, value in kwargs.items() if name not in _OF_THE_MODEL}
    config, unused = config_class.from_pretrained(
        source if given is None else given, return_unused_kwargs=True, **of_config
    )
    of_model = {name: value for name, value in kwargs.items() if name in _OF_THE_MODEL | _OF_BOTH}
    return config, {**unused, **of_model}


# Arguments of from_pretrained that a config would take for values of its own, ...
_OF_THE_MODEL = frozenset({"attn_implementation", "dtype", "quantization_config", "torch_dtype"})
# ... and those by which both the config and the weights are found.
_OF_BOTH = frozenset({"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"})
