"""An adapter of a model as files."""

from __future__ import annotations

from pathlib import Path

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import UnknownAdapterError, nearest
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.keys import of_adapter
from adapter_runtime.files.names import ADAPTER_FILES, Folder, child_folder
from adapter_runtime.files.options import AS_IT_IS, SaveOptions
from adapter_runtime.files.saving.envelope import envelope, write_interface
from adapter_runtime.files.saving.head import save_head
from adapter_runtime.files.tensors import without_aliases, write_tensors


def save_adapter(
    model: AdaptedModel, save_directory: Folder, adapter_name: str, options: SaveOptions = AS_IT_IS
) -> None:
    """See `AdapterFilesMixin.save_adapter`.

    Raises:
        UnknownAdapterError: there is no such adapter.
    """
    names = model.adapters_config.adapters
    if adapter_name not in names:
        raise UnknownAdapterError(f"The model has no adapter {adapter_name!r}. {nearest(adapter_name, names)}")
    folder = Path(save_directory)
    tensors = without_aliases(of_adapter(model.state_dict(keep_vars=True), adapter_name))
    document = {
        **envelope(model),
        "name": adapter_name,
        "config": model.adapters_config.get(adapter_name).to_dict(),
        **options.meta_dict,
    }
    write_tensors(folder, ADAPTER_FILES, tensors, options.use_safetensors)
    write_document(folder / ADAPTER_FILES.config, document)
    write_interface(model, folder)
    if options.with_head and head_files.has_head(model, adapter_name):
        save_head(model, folder, adapter_name, options.use_safetensors)
    options.run_savers(folder, adapter_name)


def save_all_adapters(model: AdaptedModel, save_directory: Folder, options: SaveOptions = AS_IT_IS) -> None:
    """See `AdapterFilesMixin.save_all_adapters`."""
    folders = {name: child_folder(Path(save_directory), name) for name in model.adapters_config.adapters}
    for name, folder in folders.items():
        save_adapter(model, folder, name, options)
