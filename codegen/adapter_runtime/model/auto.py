"""The class with flexible heads for a config or a checkpoint, whatever its model type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from adapter_runtime.contract.registry import load_class, registered
from adapter_runtime.errors import UnsupportedModelError, nearest


class AdapterModelMapping(Mapping[type[PreTrainedConfig], type]):
    """Config class -> adapter model class, over all generated models. A class is imported when it is looked up."""

    def __getitem__(self, config_class: type[PreTrainedConfig]) -> type:
        if config_class not in self:
            raise KeyError(config_class)
        return load_class(registered().adapter_models[config_class.model_type])

    def __contains__(self, config_class: object) -> bool:
        model_type = getattr(config_class, "model_type", None)
        return model_type in registered().adapter_models and config_class is CONFIG_MAPPING[model_type]

    def __iter__(self) -> Iterator[type[PreTrainedConfig]]:
        return (CONFIG_MAPPING[model_type] for model_type in registered().adapter_models)

    def __len__(self) -> int:
        return len(registered().adapter_models)


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
        _check(config)
        model: PreTrainedModel = super().from_config(config, **kwargs)
        return model


def _check(config: PreTrainedConfig) -> None:
    if type(config) not in ADAPTER_MODEL_MAPPING:
        known = registered().adapter_models
        raise UnsupportedModelError(
            f"There is no adapter model for type {config.model_type!r}. {nearest(config.model_type, known)}"
            f" Generate one: adapter-codegen add-model {config.model_type}"
        )
