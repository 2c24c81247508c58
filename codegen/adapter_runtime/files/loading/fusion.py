"""Mixtures of adapters (AdapterFusion) as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_runtime.composition import Fuse
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import blamed_on, write_document
from adapter_runtime.files.keys import FUSION_CONTAINER, fusion_owner, of_fusion, renamed
from adapter_runtime.files.loading.adapter import (
    Saved,
    fit,
    read_head_beside,
    require_same_type,
)
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import without_aliases
from adapter_runtime.files.names import FUSION_FILES, child_folder
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions, run_savers
from adapter_runtime.files.saving.adapter import Folder, envelope, save_head
from adapter_runtime.files.source import local_folder
from adapter_runtime.files.tensors import Tensors, write_tensors
from adapter_runtime.methods.fusion.api import Fusion, fusion_name
from adapter_runtime.methods.fusion.config import AdapterFusionConfig
from adapter_runtime.methods.fusion.stored import read_fusion_config

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin


def save_adapter_fusion(
    model: ModelAdaptersMixin,
    save_directory: Folder,
    fusion: Fusion,
    meta_dict: Mapping[str, Any] | None = None,
    custom_weights_loaders: Sequence[Any] = (),
    with_head: bool | str = False,
    use_safetensors: bool = True,
) -> None:
    """See `AdapterFilesMixin.save_adapter_fusion`."""
    name = fusion_name(fusion)
    entry = model.adapters_config.get_fusion(name)
    head = name if with_head is True else with_head or None
    if head is not None:
        head_files.export(model, head)  # raises where there is none, before anything is written
    folder = Path(save_directory)
    document = {
        **envelope(model),
        "name": name,
        "adapter_names": list(entry.adapter_names),
        "config": entry.config.to_dict(),
        **(meta_dict or {}),
    }
    tensors = without_aliases(of_fusion(model.state_dict(keep_vars=True), name))
    write_tensors(folder, FUSION_FILES, tensors, use_safetensors)
    write_document(folder / FUSION_FILES.config, document)
    if head is not None:
        save_head(model, folder, head, use_safetensors)
    run_savers(custom_weights_loaders, folder, name)


def save_all_adapter_fusions(
    model: ModelAdaptersMixin,
    save_directory: Folder,
    meta_dict: Mapping[str, Any] | None = None,
    custom_weights_loaders: Sequence[Any] = (),
    use_safetensors: bool = True,
) -> None:
    """See `AdapterFilesMixin.save_all_adapter_fusions`."""
    folders = {name: child_folder(Path(save_directory), name, "fusion") for name in model.adapters_config.fusions}
    for name, folder in folders.items():
        save_adapter_fusion(model, folder, name, meta_dict, custom_weights_loaders, False, use_safetensors)


def load_adapter_fusion(
    model: ModelAdaptersMixin,
    source: Folder,
    set_active: bool = False,
    with_head: bool = True,
    options: LoadOptions = AS_THEY_ARE,
) -> str:
    """Read a mixture, and the head beside it; see `AdapterFilesMixin.load_adapter_fusion`. Returns its name."""
    folder = local_folder(source, FUSION_FILES, options.revision, options.download)
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        block = read_fusion(model, folder, with_head, options, transaction)
        options.run_loaders(folder)
        if set_active:
            model.set_active_adapters(block)
        return block.name


def read_fusion(
    model: ModelAdaptersMixin, folder: Path, with_head: bool, options: LoadOptions, transaction: Transaction
) -> Fuse:
    """Read the mixture in `folder`, and the head beside it. Returns its block."""
    saved = Saved.read(folder, FUSION_FILES, options)
    path = folder / FUSION_FILES.config
    with blamed_on(path):
        block = Fuse(*_adapter_names(saved), name=_name(saved, options))
        require_same_type(model, saved, options.strict, f"Fusion {block.name!r}")
        _add(model, block, read_fusion_config(saved.document.get("config"), str(path)))
    expected = of_fusion(model.state_dict(keep_vars=True), block.name)
    if expected:  # a mixture without projections learns nothing; `adapters` writes a layer for it that it never uses
        fit(model, _tensors_of(saved, block.name), expected, saved, options, f"Fusion {block.name!r}", transaction)
    if with_head:
        read_head_beside(model, saved.folder, options.load_as, options, transaction)
    return block


def _name(saved: Saved, options: LoadOptions) -> str:
    name = saved.document.get("name") if options.load_as is None else options.load_as
    if name is None:
        raise AdapterFileError(f"{saved.folder / FUSION_FILES.config} gives no name. Give one: load_as=...")
    return check_name(name, "fusion")


def _adapter_names(saved: Saved) -> list[str]:
    """The adapters that are mixed. Files of old say it by their name only."""
    names = saved.document.get("adapter_names")
    if names is None:
        names = str(saved.document.get("name") or "")
    names = names.split(",") if isinstance(names, str) else names
    if not isinstance(names, list) or not names:
        raise AdapterFileError(f'{saved.folder / FUSION_FILES.config} has no list "adapter_names".')
    return [check_name(name) for name in names]


def _add(model: ModelAdaptersMixin, block: Fuse, config: AdapterFusionConfig) -> None:
    """Add the mixture, unless it is there with the same adapters and config: then its tensors are replaced."""
    present = model.adapters_config.fusions.get(block.name)
    if present is None:
        model.add_adapter_fusion(block, config)
    elif tuple(present.adapter_names) != block.children or present.config.to_dict() != config.to_dict():
        raise AdapterMismatchError(
            f"The model has a fusion {block.name!r} of other adapters or with another config. Load under a new name"
            f" (load_as=...) or delete it first (delete_adapter_fusion({block.name!r}))."
        )


def _tensors_of(saved: Saved, name: str) -> Tensors:
    """The tensors of the mixture that the file is of, under the names that the mixture `name` gives them."""
    owners = sorted({own for key in saved.tensors if (own := fusion_owner(key)) is not None})
    written_as = saved.document.get("name")
    if written_as not in owners:
        if len(owners) != 1:
            held = f"several fusions: {'; '.join(owners)}" if owners else "no fusion"
            raise AdapterFileError(f"The weights in {saved.folder} hold {held}.")
        written_as = owners[0]
    return renamed(of_fusion(saved.tensors, written_as), written_as, name, {FUSION_CONTAINER})
