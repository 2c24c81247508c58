"""`load_model`: a whole model with its adapters, as `save_pretrained` wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.model.init import init
from adapter_runtime.model.interface.declaration import Interface, find_interface

# Options of `from_pretrained` that say where files come from; all files of a model come from one place.
_DOWNLOAD = ("revision", "token", "cache_dir", "force_download", "local_files_only", "proxies", "subfolder")


def load_model(
    model_name_or_path: str | os.PathLike[str],
    model_class: type[PreTrainedModel] | type[_BaseAutoModelClass],
    interface: Interface | None = None,
    *model_args: Any,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a model that was saved with its adapters; their weights are read too.

    Args:
        model_name_or_path: what ``from_pretrained`` takes: a folder, or a repository of the hub.
        model_class: a class of upstream, an auto class of upstream, or one of ours.
        interface: how to find the modules of a model that no classes were generated for. None = as the file
            ``adapter_interface.json`` beside the model says, if there is one.
        model_args, kwargs: further arguments of ``from_pretrained``.

    Raises:
        UnsupportedModelError: no classes were generated for the model and there is no interface.
        InvalidConfigError: the model has no such modules as the interface names.
        AdapterFileError: ``adapter_interface.json`` is damaged.
    """
    if interface is None:
        interface = find_interface(model_name_or_path, **{k: kwargs[k] for k in _DOWNLOAD if k in kwargs})
    wanted = _concrete(model_class, model_name_or_path, kwargs)
    if issubclass(wanted, ModelAdaptersMixin):
        if interface is not None:
            raise UnsupportedModelError(
                f"{wanted.__name__} is a generated class, which needs no interface. Give upstream's class to load "
                f"{model_name_or_path} by its interface."
            )
        loaded: PreTrainedModel = wanted.from_pretrained(model_name_or_path, *model_args, **kwargs)
        return loaded
    loaded = _turned_when_made(wanted, interface).from_pretrained(model_name_or_path, *model_args, **kwargs)
    return loaded


def _concrete(
    model_class: type[PreTrainedModel] | type[_BaseAutoModelClass],
    source: str | os.PathLike[str],
    kwargs: Mapping[str, Any],
) -> type[PreTrainedModel]:
    """The class itself, or the one that an auto class stands for."""
    if not issubclass(model_class, _BaseAutoModelClass):
        return model_class
    mapping = model_class._model_mapping
    config = kwargs.get("config")
    if not isinstance(config, PreTrainedConfig):
        config = AutoConfig.from_pretrained(config or source, **{k: kwargs[k] for k in _DOWNLOAD if k in kwargs})
    if type(config) not in mapping:
        raise UnsupportedModelError(f"{model_class.__name__} has no class for models of type {config.model_type!r}.")
    classes: type[PreTrainedModel] | Sequence[type[PreTrainedModel]] = mapping[type(config)]
    return classes[0] if isinstance(classes, Sequence) else classes


def _turned_when_made(upstream: type[PreTrainedModel], interface: Interface | None) -> type[PreTrainedModel]:
    """A subclass of `upstream` whose constructor also calls `init`, so that weights are read into a model with adapters."""

    def made(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        upstream.__init__(self, config, *args, **kwargs)
        self.__class__ = upstream
        init(self, interface=interface)

    namespace = {"__init__": made, "__module__": upstream.__module__, "__qualname__": upstream.__qualname__}
    return type(upstream.__name__, (upstream,), namespace)
