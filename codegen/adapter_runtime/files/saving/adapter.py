"""Writing adapters and heads to folders, in the format of `adapters`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_runtime import __version__
from adapter_runtime.contract.config_values import config_value
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.errors import UnknownAdapterError, nearest
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.keys import of_adapter, owner
from adapter_runtime.files.loading.fit import without_aliases
from adapter_runtime.files.names import ADAPTER_FILES, HEAD_FILES, child_folder
from adapter_runtime.files.options import run_savers
from adapter_runtime.files.tensors import write_tensors
from adapter_runtime.methods.lora.sharing import forget
from adapter_runtime.model.interface.files import write_interface

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

Folder = str | os.PathLike[str]


def save_adapter(
    model: ModelAdaptersMixin,
    save_directory: Folder,
    adapter_name: str,
    meta_dict: Mapping[str, Any] | None = None,
    with_head: bool = True,
    use_safetensors: bool = True,
    custom_weights_loaders: Sequence[Any] | None = None,
) -> None:
    """See `ModelAdaptersMixin.save_adapter`."""
    names = model.adapters_config.adapters
    if adapter_name not in names:
        raise UnknownAdapterError(f"The model has no adapter {adapter_name!r}. {nearest(adapter_name, names)}")
    folder = Path(save_directory)
    tensors = without_aliases(of_adapter(model.state_dict(keep_vars=True), adapter_name))
    document = {
        **envelope(model),
        "name": adapter_name,
        "config": model.adapters_config.get(adapter_name).to_dict(),
        **(meta_dict or {}),
    }
    write_tensors(folder, ADAPTER_FILES, tensors, use_safetensors)
    write_document(folder / ADAPTER_FILES.config, document)
    write_interface(model, folder, written_by())
    if with_head and head_files.has_head(model, adapter_name):
        save_head(model, folder, adapter_name, use_safetensors)
    run_savers(custom_weights_loaders, folder, adapter_name)


def save_all_adapters(
    model: ModelAdaptersMixin,
    save_directory: Folder,
    meta_dict: Mapping[str, Any] | None = None,
    with_head: bool = True,
    use_safetensors: bool = True,
    custom_weights_loaders: Sequence[Any] | None = None,
) -> None:
    """See `ModelAdaptersMixin.save_all_adapters`."""
    folders = {name: child_folder(Path(save_directory), name) for name in model.adapters_config.adapters}
    for name, folder in folders.items():
        save_adapter(model, folder, name, meta_dict, with_head, use_safetensors, custom_weights_loaders)


def stored_adapters(
    model: ModelAdaptersMixin, state_dict: Mapping[str, Any] | None
) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """What a saved model says about its adapters in ``config.json``, and the state dict to write with it.

    Args:
        state_dict: what the caller wants to write; None = that of the model.

    Returns:
        An empty dict where there are no adapters. The state dict is None where it is simply that of the model.
    """
    merged = model.merged_adapters()
    kept = ModelAdaptersConfig()
    kept.adapters = {name: config for name, config in model.adapters_config.adapters.items() if name not in merged}
    kept.fusions = dict(model.adapters_config.fusions)
    kept.shared = dict(model.adapters_config.shared)
    for name in merged:
        forget(kept, name)
    if kept.shared:
        state_dict = with_copies(kept, model.state_dict() if state_dict is None else state_dict)
    if merged:
        state_dict = model.state_dict() if state_dict is None else state_dict
        state_dict = {key: tensor for key, tensor in state_dict.items() if owner(key) not in merged}
    return kept.to_dict() if kept.adapters else {}, state_dict


def with_copies(state: ModelAdaptersConfig, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict in which every adapter has a copy of what it shares: transformers writes no tensor twice."""
    followers = {name for names in state.shared.values() for name in names[1:]}
    return {key: tensor.clone() if owner(key) in followers else tensor for key, tensor in tensors.items()}


def save_head(
    model: ModelAdaptersMixin, save_directory: Folder, head_name: str | None = None, use_safetensors: bool = True
) -> None:
    """Write a flexible head, or the one head of a class with a static head.

    Raises:
        UnknownHeadError: there is no such head.
    """
    document, tensors = head_files.export(model, head_name)
    folder = Path(save_directory)
    write_tensors(folder, HEAD_FILES, without_aliases(tensors), use_safetensors)
    write_document(folder / HEAD_FILES.config, {**envelope(model), **document})


def save_all_heads(model: ModelAdaptersMixin, save_directory: Folder, use_safetensors: bool = True) -> None:
    """Write each flexible head to a folder of its name; the one head of a class with a static head to the folder itself.

    Raises:
        UnknownHeadError: the model is a bare base model.
    """
    if not head_files.is_flexible(model):
        save_head(model, save_directory, None, use_safetensors)
        return
    folders = {name: child_folder(Path(save_directory), name, "head") for name in model.heads}
    for name, folder in folders.items():
        save_head(model, folder, name, use_safetensors)


def envelope(model: ModelAdaptersMixin) -> dict[str, Any]:
    """What every JSON file says about the model that it was written from."""
    return {
        "model_type": model.config.model_type,
        "model_class": head_files.upstream_class_name(model),
        "model_name": model.config.name_or_path or "",
        "hidden_size": config_value(model.config, "hidden_size"),
        "version": written_by(),
    }


def written_by() -> str:
    """The "version" that every file states: name and version of this library."""
    return f"adapter-codegen.{__version__}"
