"""Reading adapters and heads from folders or the hub. A load that fails leaves the model as it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapter_runtime.configuration import AdapterConfig
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import read_document
from adapter_runtime.files.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files.fit import compare
from adapter_runtime.files.keys import fit_prefix, is_alias, of_adapter, owner, renamed
from adapter_runtime.files.legacy import Document, modernise
from adapter_runtime.files.names import ADAPTER_FILES, HEAD_FILES, FileSet, check_name
from adapter_runtime.files.source import local_folder
from adapter_runtime.files.tensors import Tensors, read_tensors
from adapter_runtime.files.transaction import Transaction
from adapter_runtime.heads.static import as_flexible
from adapter_runtime.saving import Folder

if TYPE_CHECKING:
    from adapter_runtime.model_mixin import ModelAdaptersMixin

logger = logging.getLogger(__name__)

ConfigChange = Mapping[str, Any] | AdapterConfig | None


@dataclass(frozen=True)
class LoadOptions:
    """How files are read."""

    load_as: str | None = None  # name in the model; None = the name in the file
    strict: bool = True  # refuse files of other model types, with missing or unknown tensors; else only report it
    use_safetensors: bool | None = None  # None = whichever format is there, safetensors first
    revision: str | None = None  # of a repository of the hub


@dataclass(frozen=True)
class Saved:
    """What the files of an adapter or a head hold."""

    folder: Path
    document: Document
    tensors: Tensors

    @staticmethod
    def read(folder: Path, files: FileSet, options: LoadOptions) -> Saved:
        document = read_document(folder / files.config)
        return Saved(folder, document, read_tensors(folder, files, options.use_safetensors))


def load_adapter(
    model: ModelAdaptersMixin,
    source: Folder,
    config: ConfigChange = None,
    set_active: bool = False,
    with_head: bool = True,
    options: LoadOptions = LoadOptions(),
) -> str:
    """Read an adapter, and the head beside it; see `AdapterFilesMixin.load_adapter`.

    Returns:
        The name of the adapter in the model.
    """
    saved = Saved.read(local_folder(source, ADAPTER_FILES, options.revision), ADAPTER_FILES, options)
    document, tensors = modernise(saved.document, saved.tensors)
    saved = Saved(saved.folder, document, tensors)
    name = _name(saved, options)
    _require_same_type(model, saved, options.strict, f"Adapter {name!r}")
    with Transaction() as transaction:
        _add(model, name, _config(saved, config), transaction)
        expected = of_adapter(model.state_dict(keep_vars=True), name)
        given = fit_prefix(_tensors_of(saved, name), expected, model.base_model_prefix)
        _require_fit(model, given, expected, saved, options.strict, f"Adapter {name!r}")
        transaction.copy(given, expected)
        if with_head:
            _load_head_beside(model, saved.folder, name, options, transaction)
    if set_active:
        model.set_active_adapters(name)
    return name


def load_head(model: ModelAdaptersMixin, source: Folder, options: LoadOptions = LoadOptions()) -> str | None:
    """Read a head into a model with flexible heads, or into the static head of the same kind.

    Returns:
        The name of the head; None for a static one.

    Raises:
        AdapterFileError: a file is missing or damaged.
        AdapterMismatchError: the head does not fit; the model is unchanged.
    """
    folder = local_folder(source, HEAD_FILES, options.revision)
    if head_files.is_bare(model):
        raise AdapterMismatchError(f"A {head_files.upstream_class_name(model)} has no head to load {folder} into.")
    with Transaction() as transaction:
        return _load_head(model, folder, options, transaction)


def _name(saved: Saved, options: LoadOptions) -> str:
    """The name in the model. A name in a file is not trusted more than one in code."""
    name = saved.document.get("name") if options.load_as is None else options.load_as
    if name is None:
        raise AdapterFileError(f"{saved.folder / ADAPTER_FILES.config} gives no name. Give one: load_as=...")
    return check_name(name)


def _config(saved: Saved, change: ConfigChange) -> AdapterConfig:
    """The config of the file, with what the caller knows better."""
    if isinstance(change, AdapterConfig):
        return change
    if saved.document.get("config") is None:
        raise AdapterFileError(f'{saved.folder / ADAPTER_FILES.config} has no "config". Give one: config=...')
    config = AdapterConfig.load(saved.document["config"])
    return config.replace(**change) if change else config


def _tensors_of(saved: Saved, name: str) -> Tensors:
    """The tensors of the one adapter in the file, under the names that adapter `name` gives them."""
    tensors = {key: tensor for key, tensor in saved.tensors.items() if not is_alias(key)}
    owners = sorted({own for key in tensors if (own := owner(key)) is not None})
    if not owners:
        raise AdapterFileError(f"The weights in {saved.folder} hold no adapter.")
    written_as = saved.document.get("name")
    if written_as not in owners:
        if len(owners) > 1:
            raise AdapterFileError(f"The weights in {saved.folder} hold several adapters: {', '.join(owners)}.")
        written_as = owners[0]
    return renamed(of_adapter(tensors, written_as), written_as, name)


def _add(model: ModelAdaptersMixin, name: str, config: AdapterConfig, transaction: Transaction) -> None:
    """Make room for the adapter, unless it is there with the same config: then its tensors are replaced."""
    if name not in model.adapters_config.adapters:
        model.add_adapter(name, config)
        transaction.on_failure(model.delete_adapter, name)
    elif model.adapters_config.get(name) != config:
        raise AdapterMismatchError(
            f"The model has an adapter {name!r} with another config. Load under a new name (load_as=...) or delete it"
            f" first (delete_adapter({name!r}))."
        )


def _require_same_type(model: ModelAdaptersMixin, saved: Saved, strict: bool, what: str) -> None:
    """Raise, or without `strict` warn, where a file was written from another architecture: its tensors may fit by chance.

    A file that does not say its type passes.
    """
    written_from, own = saved.document.get("model_type"), model.config.model_type
    if written_from in (None, own):
        return
    message = (
        f"{what} from {saved.folder} was written from a {saved.document.get('model_class')} of type {written_from!r};"
        f" this is a {head_files.upstream_class_name(model)} of type {own!r}."
    )
    if strict:
        raise AdapterMismatchError(
            f"{message} If it shall be loaded all the same, as far as tensors fit: strict=False."
            " The model is unchanged."
        )
    logger.warning(message)


def _require_fit(
    model: ModelAdaptersMixin,
    given: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    saved: Saved,
    strict: bool,
    what: str,
) -> None:
    """Raise, or without `strict` warn, where tensors differ in name. A different shape always raises."""
    mismatch = compare(given, expected)
    if not mismatch:
        return
    message = (
        f"{what} from {saved.folder} does not fit. It was written from {saved.document.get('model_class')} (type"
        f" {saved.document.get('model_type')}, hidden size {saved.document.get('hidden_size')}); this is"
        f" {head_files.upstream_class_name(model)} (type {model.config.model_type}).\n{mismatch}"
    )
    if any("shared_parameters" in key.split(".") for key in mismatch.missing):
        message += (
            "\nParameters that layers share are not in the file: `adapters` leaves them out for bare base models."
        )
    if strict or mismatch.shapes:
        raise AdapterMismatchError(f"{message}\nThe model is unchanged.")
    logger.warning(message)


def _load_head_beside(
    model: ModelAdaptersMixin, folder: Path, name: str, options: LoadOptions, transaction: Transaction
) -> None:
    """Load the head that was written into the folder of an adapter, where there is one and the model can hold it."""
    if head_files.is_bare(model) or not (folder / HEAD_FILES.config).is_file():
        return
    class_name = read_document(folder / HEAD_FILES.config).get("model_class")
    own = head_files.upstream_class_name(model)
    if head_files.is_flexible(model) or class_name == own:
        _load_head(model, folder, replace(options, load_as=name), transaction)
    else:
        logger.warning(
            "The head beside the adapter in %s, of a %s, was not loaded into a %s.", folder, class_name, own
        )


def _load_head(model: ModelAdaptersMixin, folder: Path, options: LoadOptions, transaction: Transaction) -> str | None:
    saved = Saved.read(folder, HEAD_FILES, options)
    name = None
    if head_files.is_flexible(model):
        name, config, tensors = as_flexible(saved.document, saved.tensors, options.load_as, model.base_model_prefix)
        saved = replace(saved, tensors=tensors)
        _add_head(model, check_name(name, "head"), config, transaction)
        expected = head_files.flexible_tensors(model, name)
    else:
        expected = head_files.static_tensors(model)
    tied = model.get_expanded_tied_weights_keys()
    given = {key: tensor for key, tensor in saved.tensors.items() if key not in tied}
    _require_fit(model, given, expected, saved, options.strict, f"Head {name!r}" if name else "The head")
    transaction.copy(given, expected)
    return name


def _add_head(model: Any, name: str, config: dict[str, Any], transaction: Transaction) -> None:
    """Add the head, unless it is there with the same config: then its tensors are replaced."""
    if name not in model.heads:
        transaction.on_failure(setattr, model, "active_head", model.active_head)
        model.add_prediction_head_from_config(name, config, set_active=model.active_head is None)
        transaction.on_failure(model.delete_head, name)
    elif model.heads[name].config != config:
        raise AdapterMismatchError(
            f"The model has a head {name!r} with another config. Load under a new name (load_as=...) or delete it first."
        )
