"""The class with flexible heads for a config or a checkpoint, whatever its model type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.configuration_auto import model_type_to_module_name

from adapter_runtime.contract.registry import load_class, registered
from adapter_runtime.errors import UnsupportedModelError, nearest
from adapter_runtime.files.api.checkpoints import config_for


class AdapterModelMapping(Mapping[type[PreTrainedConfig], type]):
    """Config class -> adapter model class, over all generated models. A class is imported when it is looked up.

    Where upstream's base model is that of a part (MusicGen's is its decoder), the part's config class is known as well: it is what such
    a model is saved with.
    """

    def __getitem__(self, config_class: type[PreTrainedConfig]) -> type:
        model_type = _type_of(config_class)
        if model_type is None:
            raise KeyError(config_class)
        return load_class(registered().adapter_models[model_type])

    def __contains__(self, config_class: object) -> bool:
        return _type_of(config_class) is not None

    def __iter__(self) -> Iterator[type[PreTrainedConfig]]:
        return (CONFIG_MAPPING[model_type] for model_type in registered().adapter_models)

    def __len__(self) -> int:
        return len(registered().adapter_models)


def _type_of(config_class: Any) -> str | None:
    """The model type whose adapter model takes such a config: that of the config, or one that has a base model for this part alone."""
    known, own = registered().adapter_models, getattr(config_class, "model_type", None)
    if own not in CONFIG_MAPPING or CONFIG_MAPPING[own] is not config_class:
        return None
    if own in known:
        return own
    outer = model_type_to_module_name(own)
    adapter_model: Any = load_class(known[outer]) if outer in known else None
    return outer if adapter_model is not None and adapter_model.config_class is config_class else None


ADAPTER_MODEL_MAPPING = AdapterModelMapping()


# (transformers has no types for mypy, so that a class of it is Any.)
class AutoAdapterModel(_BaseAutoModelClass):  # type: ignore[misc]
    """Makes a model with flexible heads: ``AutoAdapterModel.from_pretrained("google-bert/bert-base-uncased")``.

    `from_pretrained` takes checkpoints of base models, of upstream's classes with a head (the head becomes the flexible
    head "default") and of adapter models, with their adapters and heads. `from_config` makes random weights.
    """

    _model_mapping = ADAPTER_MODEL_MAPPING

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
        """A model with random weights.

        Raises:
            UnsupportedModelError: no adapter model was generated for this type.
        """
        config = config_for(_class_for(config).config_class, config)
        model: PreTrainedModel = super().from_config(config, **kwargs)
        return model


def _class_for(config: PreTrainedConfig) -> Any:
    known, model_type = registered().adapter_models, _type_of(type(config))
    if model_type is None:
        raise UnsupportedModelError(
            f"There is no adapter model for type {config.model_type!r}. {nearest(config.model_type, known)}"
            f" Generate one: adapter-codegen add-model {config.model_type}"
        )
    return load_class(known[model_type])
