"""Adapter setups as files: a composition, with the adapters, mixtures and heads that it names in folders below it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_runtime.composition import AdapterCompositionBlock, Setup, parse_composition
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import AdapterFileError, InvalidCompositionError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import read_document, write_document
from adapter_runtime.files.formats.blocks import block_from_dict, block_to_dict, fused_names
from adapter_runtime.files.loading.adapter import read_adapter, read_head
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fusion import read_fusion, save_adapter_fusion
from adapter_runtime.files.names import (
    ADAPTER_FILES,
    FUSION_FILES,
    HEAD_FILES,
    SETUP_FILE,
    child_folder,
)
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions, run_savers
from adapter_runtime.files.saving.adapter import (
    Folder,
    save_adapter,
    save_head,
    written_by,
)
from adapter_runtime.files.source import local_folder, local_setup
from adapter_runtime.methods.fusion.api import fusions_in

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

logger = logging.getLogger(__name__)

# None; True = the one head of a class with a static head; the name of a head; several; a block of them.
HeadSetup = bool | str | Sequence[str] | AdapterCompositionBlock | None


def head_names(head_setup: HeadSetup) -> list[str]:
    """The names of the flexible heads that a head setup is made of."""
    if isinstance(head_setup, AdapterCompositionBlock):
        return list(dict.fromkeys(head_setup.names()))
    if isinstance(head_setup, str):
        return [head_setup]
    return [] if head_setup is None or isinstance(head_setup, bool) else list(dict.fromkeys(head_setup))


def save_adapter_setup(
    model: ModelAdaptersMixin,
    save_directory: Folder,
    adapter_setup: Setup,
    head_setup: HeadSetup = None,
    meta_dict: Mapping[str, Any] | None = None,
    custom_weights_loaders: Sequence[Any] | None = None,
    use_safetensors: bool = True,
) -> None:
    """See `AdapterFilesMixin.save_adapter_setup`."""
    block = parse_composition(adapter_setup)
    if block is None:
        raise InvalidCompositionError("There is no setup to save: give a name or a block.")
    names = list(dict.fromkeys(block.names()))
    _check_present(model, block, head_setup)
    root = Path(save_directory)
    for name in names:
        save_adapter(model, child_folder(root, name), name, meta_dict, True, use_safetensors)
    for fuse in fusions_in(block):
        folder = child_folder(root, fuse.name, "fusion")
        save_adapter_fusion(model, folder, fuse, meta_dict, use_safetensors=use_safetensors)
    if head_setup is True:
        save_head(model, root, None, use_safetensors)
    for name in head_names(head_setup):
        save_head(model, child_folder(root, name, "head"), name, use_safetensors)
    run_savers(custom_weights_loaders, root, names[-1])
    is_block = isinstance(head_setup, AdapterCompositionBlock)
    document = {
        "adapter_setup": block_to_dict(block),
        "head_setup": block_to_dict(head_setup) if is_block else head_setup,  # type: ignore[arg-type]
        "version": written_by(),
    }
    write_document(root / SETUP_FILE, document)


def _check_present(model: ModelAdaptersMixin, block: AdapterCompositionBlock, head_setup: HeadSetup) -> None:
    """Raise, before anything is written, where a part of the setup is not there."""
    model.adapters_config.require_block(block)
    for name in [None] if head_setup is True else head_names(head_setup):
        head_files.export(model, name)


def load_adapter_setup(
    model: ModelAdaptersMixin, source: Folder, set_active: bool = False, options: LoadOptions = AS_THEY_ARE
) -> tuple[AdapterCompositionBlock, HeadSetup]:
    """See `AdapterFilesMixin.load_adapter_setup`."""
    root = local_setup(source, options.revision, options.download)
    document = read_document(root / SETUP_FILE)
    block = block_from_dict(document.get("adapter_setup"), find_name=lambda names: _stored_name(root, names))
    head_setup = _read_head_setup(document.get("head_setup"))
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        _read_parts(model, root, block, options, transaction)
        _read_heads(model, root, head_setup, options, transaction)
        options.run_loaders(root)
        if set_active:
            model.set_active_adapters(block)
            if head_names(head_setup) and not head_files.is_bare(model):
                model.active_head = head_setup
    return block, head_setup


def _read_parts(
    model: ModelAdaptersMixin,
    root: Path,
    block: AdapterCompositionBlock,
    options: LoadOptions,
    transaction: Transaction,
) -> None:
    """Read the adapters and mixtures of a setup from the folders of their names."""
    inner = LoadOptions(strict=options.strict, use_safetensors=options.use_safetensors, leave_out=options.leave_out)
    for name in dict.fromkeys(block.names()):
        folder = local_folder(child_folder(root, name), ADAPTER_FILES)
        read_adapter(model, folder, None, True, replace(inner, load_as=name), transaction)
    for fuse in fusions_in(block):
        folder = local_folder(child_folder(root, fuse.name, "fusion"), FUSION_FILES)
        read = read_fusion(model, folder, False, replace(inner, load_as=fuse.name), transaction)
        if read.children != fused_names(fuse):
            raise AdapterFileError(
                f"{folder} holds a fusion of {', '.join(map(str, read))}, but the setup needs one of"
                f" {', '.join(fused_names(fuse))}."
            )


def _read_heads(
    model: ModelAdaptersMixin, root: Path, head_setup: HeadSetup, options: LoadOptions, transaction: Transaction
) -> None:
    inner = LoadOptions(strict=options.strict, use_safetensors=options.use_safetensors, id2label=options.id2label)
    if head_setup is not None and head_setup is not False and head_files.is_bare(model):
        own = head_files.upstream_class_name(model)
        logger.warning("The setup in %s has heads, which a %s cannot hold: they are left out.", root, own)
        return
    if head_setup is True:
        read_head(model, local_folder(root, HEAD_FILES), inner, transaction)
    for name in head_names(head_setup):
        folder = local_folder(child_folder(root, name, "head"), HEAD_FILES)
        read_head(model, folder, replace(inner, load_as=name), transaction)


def _read_head_setup(stored: object) -> HeadSetup:
    """The head setup in a document.

    Raises:
        AdapterFileError: it is none.
    """
    if stored is None or isinstance(stored, bool):
        return stored
    if isinstance(stored, Mapping):
        return block_from_dict(stored, kind="head")
    if isinstance(stored, str):
        return check_name(stored, "head")
    if isinstance(stored, list):
        return [check_name(name, "head") for name in stored]
    raise AdapterFileError(f"The head setup {stored!r} is no name, list of names or block.")


def _stored_name(root: Path, names: tuple[str, ...]) -> str | None:
    """The name of a mixture of the adapters `names`: that of the folder that holds one.

    `adapters` leaves the name out of the setup, and then cannot read its own file where the name is not the default one.

    Raises:
        AdapterFileError: several folders hold such a mixture, none of them under the default name.
    """
    default = ",".join(names)
    if (root / default).is_dir():
        return default
    documents = sorted(root.glob(f"*/{FUSION_FILES.config}"))
    found = [path.parent.name for path in documents if _mixes(path, names)]
    if len(found) > 1:
        raise AdapterFileError(
            f"{root / SETUP_FILE} does not say which of its fusions of {default} it means: {', '.join(found)}."
        )
    return found[0] if found else None


def _mixes(path: Path, names: tuple[str, ...]) -> bool:
    stored = read_document(path).get("adapter_names")
    return tuple(stored.split(",") if isinstance(stored, str) else stored or ()) == names
