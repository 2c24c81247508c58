"""Files as this library writes them. Those of `adapters` are laid out alike; ``legacy`` reads what differs in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import Document, read_document
from adapter_runtime.files.formats.interface import interface_beside
from adapter_runtime.files.formats.saved import Origin, SavedAdapter, SavedFusion, SavedHead, accept
from adapter_runtime.files.formats.static_heads import fits_static
from adapter_runtime.files.keys import is_alias, of_adapter, owner
from adapter_runtime.files.names import ADAPTER_FILES, FUSION_FILES, HEAD_FILES
from adapter_runtime.files.options import LoadOptions
from adapter_runtime.files.tensors import Tensors, read_tensors
from adapter_runtime.heads.protocol import is_flexible

WRITER = "adapter-codegen"  # with which the "version" in each of our files begins


def recognise(document: Document) -> bool:
    """Whether this library wrote the document of an adapter."""
    version = document.get("version")
    return isinstance(version, str) and version.startswith(f"{WRITER}.")


def read(model: AdaptedModel, folder: Path, document: Document, options: LoadOptions) -> SavedAdapter:
    """The adapter in `folder`."""
    return saved_adapter(
        model, folder, document, read_tensors(folder, ADAPTER_FILES, options.use_safetensors), options
    )


def saved_adapter(
    model: AdaptedModel,
    folder: Path,
    document: Document,
    tensors: Tensors,
    options: LoadOptions,
    refuse: Callable[[AdapterConfig, bool], None] = accept,
) -> SavedAdapter:
    """The adapter that a document and tensors in the layout of this library describe.

    Raises:
        AdapterFileError: the tensors are those of no adapter, or of several.
    """
    written_as = _written_as(folder, document, tensors)
    return SavedAdapter(
        folder=folder,
        name=document.get("name"),
        config=document.get("config"),
        tensors=of_adapter(tensors, written_as),
        written_as=written_as,
        origin=Origin.of(document),
        interface=interface_beside(folder),
        head=head_beside(model, folder, options),
        refuse=refuse,
    )


def _written_as(folder: Path, document: Document, tensors: Tensors) -> str:
    """The name of the adapter in the keys of the tensors: that of the document, or else the only one in the keys."""
    owners = sorted({own for key in tensors if not is_alias(key) and (own := owner(key)) is not None})
    if not owners:
        raise AdapterFileError(f"The weights in {folder} hold no adapter.")
    name = document.get("name")
    if isinstance(name, str) and name in owners:
        return name
    if len(owners) > 1:
        raise AdapterFileError(f"The weights in {folder} hold several adapters: {', '.join(owners)}.")
    return owners[0]


def head_beside(model: AdaptedModel, folder: Path, options: LoadOptions) -> SavedHead | None:
    """The head in the folder of an adapter or a fusion; None where there is none, or where it is not asked for."""
    if not options.with_head or head_files.is_bare(model) or not (folder / HEAD_FILES.config).is_file():
        return None
    document = read_document(folder / HEAD_FILES.config)
    if can_hold(model, document):
        return read_head(folder, options)
    return SavedHead(folder, document, {}, origin=Origin.of(document))


def can_hold(model: AdaptedModel, document: Document) -> bool:
    """Whether `model` has a place for the kind of head that `document` describes."""
    own = head_files.upstream_class_name(model)
    return is_flexible(model) or document.get("model_class") == own or fits_static(document, own, model.config)


def read_head(folder: Path, options: LoadOptions) -> SavedHead:
    """The head in `folder`."""
    document = read_document(folder / HEAD_FILES.config)
    tensors = read_tensors(folder, HEAD_FILES, options.use_safetensors)
    return SavedHead(folder, document, tensors, origin=Origin.of(document))


def read_fusion(model: AdaptedModel, folder: Path, options: LoadOptions) -> SavedFusion:
    """The fusion in `folder`."""
    document = read_document(folder / FUSION_FILES.config)
    return SavedFusion(
        folder=folder,
        name=document.get("name"),
        adapter_names=mixed_adapters(folder, document),
        config=document.get("config"),
        tensors=read_tensors(folder, FUSION_FILES, options.use_safetensors),
        origin=Origin.of(document),
        head=head_beside(model, folder, options),
    )


def mixed_adapters(folder: Path, document: Document) -> tuple[str, ...]:
    """The adapters that a fusion mixes. Old files say it by the name of the fusion only.

    Raises:
        AdapterFileError: the document does not say it.
    """
    names = document.get("adapter_names")
    if names is None:
        names = str(document.get("name") or "")
    names = names.split(",") if isinstance(names, str) else names
    if not isinstance(names, list) or not names:
        raise AdapterFileError(f'{folder / FUSION_FILES.config} has no list "adapter_names".')
    return tuple(check_name(name) for name in names)
