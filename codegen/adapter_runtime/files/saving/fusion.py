"""A fusion of a model as files."""

from __future__ import annotations

from pathlib import Path

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import write_document
from adapter_runtime.files.keys import of_fusion
from adapter_runtime.files.names import FUSION_FILES, Folder, child_folder
from adapter_runtime.files.options import AS_IT_IS, SaveOptions
from adapter_runtime.files.saving.envelope import envelope
from adapter_runtime.files.saving.head import save_head
from adapter_runtime.files.tensors import without_aliases, write_tensors
from adapter_runtime.methods.fusion.api import Fusion, fusion_name


def save_adapter_fusion(
    model: AdaptedModel,
    save_directory: Folder,
    fusion: Fusion,
    head_name: str | bool = False,
    options: SaveOptions = AS_IT_IS,
) -> None:
    """See `SetupFilesMixin.save_adapter_fusion`.

    Args:
        head_name: the head to write too; True = that of the name of the fusion.
    """
    name = fusion_name(fusion)
    entry = model.adapters_config.get_fusion(name)
    head = name if head_name is True else head_name or None
    if head is not None:
        head_files.export(model, head)  # raises where there is none, before anything is written
    folder = Path(save_directory)
    document = {
        **envelope(model),
        "name": name,
        "adapter_names": list(entry.adapter_names),
        "config": dict(entry.config),
        **options.meta_dict,
    }
    tensors = without_aliases(of_fusion(model.state_dict(keep_vars=True), name))
    write_tensors(folder, FUSION_FILES, tensors, options.use_safetensors)
    write_document(folder / FUSION_FILES.config, document)
    if head is not None:
        save_head(model, folder, head, options.use_safetensors)
    options.run_savers(folder, name)


def save_all_adapter_fusions(model: AdaptedModel, save_directory: Folder, options: SaveOptions = AS_IT_IS) -> None:
    """See `SetupFilesMixin.save_all_adapter_fusions`."""
    folders = {name: child_folder(Path(save_directory), name, "fusion") for name in model.adapters_config.fusions}
    for name, folder in folders.items():
        save_adapter_fusion(model, folder, name, options=options)
