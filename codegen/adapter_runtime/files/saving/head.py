"""A head of a model as files."""

from __future__ import annotations

from pathlib import Path

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.names import HEAD_FILES, Folder, child_folder
from adapter_runtime.files.saving.envelope import envelope
from adapter_runtime.files.tensors import without_aliases, write_tensors
from adapter_runtime.heads.protocol import is_flexible


def save_head(
    model: AdaptedModel, save_directory: Folder, head_name: str | None = None, use_safetensors: bool = True
) -> None:
    """Write a flexible head, or the head of an upstream class.

    Raises:
        UnknownHeadError: there is no such head.
    """
    document, tensors = head_files.export(model, head_name)
    folder = Path(save_directory)
    write_tensors(folder, HEAD_FILES, without_aliases(tensors), use_safetensors)
    write_document(folder / HEAD_FILES.config, {**envelope(model), **document})


def save_all_heads(model: AdaptedModel, save_directory: Folder, use_safetensors: bool = True) -> None:
    """Write each flexible head to a folder of its name; the head of an upstream class to the folder itself.

    Raises:
        UnknownHeadError: the model is a bare base model.
    """
    if not is_flexible(model):
        save_head(model, save_directory, None, use_safetensors)
        return
    folders = {name: child_folder(Path(save_directory), name, "head") for name in model.heads}
    for name, folder in folders.items():
        save_head(model, folder, name, use_safetensors)
