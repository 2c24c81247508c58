"""Reading adapters and heads from folders or the hub. A load that fails leaves the model as it was."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import blamed_on, read_document
from adapter_runtime.files.formats.legacy import Document, modernise
from adapter_runtime.files.formats.refused_files import refuse_if_different
from adapter_runtime.files.formats.static_heads import as_flexible, as_static, fits_static
from adapter_runtime.files.keys import is_alias, of_adapter, owner, renamed
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import compare
from adapter_runtime.files.loading.leave_out import not_in_layers, without_layers
from adapter_runtime.files.loading.renames import fit_names
from adapter_runtime.files.names import ADAPTER_FILES, HEAD_FILES, FileSet
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions
from adapter_runtime.files.saving.adapter import Folder
from adapter_runtime.files.source import local_folder
from adapter_runtime.files.tensors import Tensors, read_tensors
from adapter_runtime.heads.factory import same_layers
from adapter_runtime.methods.prompt_tuning.module import weights_follow
from adapter_runtime.model.interface.files import check_interface

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

logger = logging.getLogger(__name__)

ConfigChange = Mapping[str, Any] | AdapterConfig | str | None


@dataclass(frozen=True)
class Saved:
    """What the files of an adapter, a head or a fusion hold."""

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
    options: LoadOptions = AS_THEY_ARE,
) -> str:
    """Read an adapter, and the head beside it; see `AdapterFilesMixin.load_adapter`.

    Returns:
        The name of the adapter in the model.
    """
    folder = local_folder(source, ADAPTER_FILES, options.revision, options.download)
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        name = read_adapter(model, folder, config, with_head, options, transaction)
        options.run_loaders(folder)
        if set_active:
            model.set_active_adapters(name)
    return name


def read_adapter(
    model: ModelAdaptersMixin,
    folder: Path,
    change: ConfigChange,
    with_head: bool,
    options: LoadOptions,
    transaction: Transaction,
) -> str:
    """Read the adapter in `folder`, of this format or of PEFT's, and the head beside it. Returns its name."""
    from adapter_runtime.files.formats.peft import is_peft, read_peft

    if is_peft(folder):
        return read_peft(model, folder, change, with_head, options, transaction)
    saved = Saved.read(folder, ADAPTER_FILES, options)
    with blamed_on(folder / ADAPTER_FILES.config):
        saved = Saved(folder, *modernise(saved.document, saved.tensors))
        name = _name(saved, options)
        require_same_type(model, saved, options.strict, f"Adapter {name!r}")
        config = without_layers(model, _config(saved, change), options.leave_out)
        refuse_if_different(saved.document, config, options.strict)
        check_interface(model, folder, config, options.strict)
        add_for_load(model, name, config)
    expected = of_adapter(model.state_dict(keep_vars=True), name)
    fit(model, _tensors_of(saved, name), expected, saved, options, f"Adapter {name!r}", transaction)
    if with_head:
        read_head_beside(model, folder, name, options, transaction)
    return name


def load_head(
    model: ModelAdaptersMixin, source: Folder, options: LoadOptions = AS_THEY_ARE, set_active: bool = False
) -> str | None:
    """Read a head into a model with flexible heads, or into the static head of the same kind.

    Returns:
        The name of the head; None for a static one.

    Raises:
        AdapterFileError: a file is missing or damaged.
        AdapterMismatchError: the head does not fit; the model is unchanged.
    """
    folder = local_folder(source, HEAD_FILES, options.revision, options.download)
    if head_files.is_bare(model):
        raise AdapterMismatchError(f"A {head_files.upstream_class_name(model)} has no head to load {folder} into.")
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        name = read_head(model, folder, options, transaction)
        if set_active and name is not None:
            model.active_head = name
    return name


def _name(saved: Saved, options: LoadOptions) -> str:
    """The name in the model. A name in a file is not trusted more than one in code."""
    name = saved.document.get("name") if options.load_as is None else options.load_as
    if name is None:
        raise AdapterFileError(f"{saved.folder / ADAPTER_FILES.config} gives no name. Give one: load_as=...")
    return check_name(name)


def _config(saved: Saved, change: ConfigChange) -> AdapterConfig:
    """The config of the file, with what the caller knows better."""
    if isinstance(change, (AdapterConfig, str)):
        return AdapterConfig.load(change)
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


def add_for_load(model: ModelAdaptersMixin, name: str, config: AdapterConfig) -> None:
    """Make room for the adapter, unless it is there with the same config: then its tensors are replaced."""
    if name not in model.adapters_config.adapters:
        with weights_follow():
            model.add_adapter(name, config)
    elif model.adapters_config.get(name) != config:
        raise AdapterMismatchError(
            f"The model has an adapter {name!r} with another config. Load under a new name (load_as=...) or delete it"
            f" first (delete_adapter({name!r}))."
        )
    elif name in model.merged_adapters():
        raise AdapterMismatchError(
            f"Adapter {name!r} is in the weights of the model, which would keep its old values. Take it out first: "
            "reset_adapter()."
        )


def require_same_type(model: ModelAdaptersMixin, saved: Saved, strict: bool, what: str) -> None:
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


def fit(
    model: ModelAdaptersMixin,
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    saved: Saved,
    options: LoadOptions,
    what: str,
    transaction: Transaction,
) -> None:
    """Name the tensors of a file as the model does, hold them to what it expects, and copy them in the end."""
    given = fit_names(tensors, expected, model, model.base_model_prefix)
    given = not_in_layers(model, given, options.leave_out)
    _require_fit(model, given, expected, saved, options.strict, what)
    transaction.copy(given, expected)


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


def read_head_beside(
    model: ModelAdaptersMixin, folder: Path, name: str | None, options: LoadOptions, transaction: Transaction
) -> None:
    """Load the head that was written into the folder of an adapter, where there is one and the model can hold it."""
    if head_files.is_bare(model) or not (folder / HEAD_FILES.config).is_file():
        if options.id2label is not None:
            logger.warning("Names of labels were given, but no head was loaded from %s.", folder)
        return
    document = read_document(folder / HEAD_FILES.config)
    class_name = document.get("model_class")
    own = head_files.upstream_class_name(model)
    if head_files.is_flexible(model) or class_name == own or fits_static(document, own, model.config):
        read_head(model, folder, replace(options, load_as=name), transaction)
    else:
        logger.warning(
            "The head beside the adapter in %s, of a %s, was not loaded into a %s.", folder, class_name, own
        )


def read_head(model: ModelAdaptersMixin, folder: Path, options: LoadOptions, transaction: Transaction) -> str | None:
    """Read the head in `folder`. Returns its name; None for a static one."""
    saved = Saved.read(folder, HEAD_FILES, options)
    require_same_type(model, saved, options.strict, "The head")
    with blamed_on(folder / HEAD_FILES.config):
        name, saved, expected = _prepare_head(model, saved, options)
    tied = model.get_expanded_tied_weights_keys()
    given = {key: tensor for key, tensor in saved.tensors.items() if key not in tied}
    _require_fit(model, given, expected, saved, options.strict, f"Head {name!r}" if name else "The head")
    transaction.copy(given, expected)
    return name


def _prepare_head(
    model: ModelAdaptersMixin, saved: Saved, options: LoadOptions
) -> tuple[str | None, Saved, Mapping[str, torch.Tensor]]:
    """Make room for a head. Returns its name, what was saved under the names that the model gives it, and its tensors."""
    if head_files.is_flexible(model):
        name, config, tensors = as_flexible(saved.document, saved.tensors, options.load_as, model.base_model_prefix)
        add_head(model, check_name(name, "head"), head_files.with_labels(config, options.id2label))
        return name, replace(saved, tensors=tensors), head_files.flexible_tensors(model, name)
    expected = head_files.static_tensors(model)
    if saved.document.get("config") is not None:
        own = head_files.upstream_class_name(model)
        tensors = as_static(saved.document, saved.tensors, own, model.config, expected)
        saved = replace(saved, tensors=tensors, document={**saved.document, **saved.document["config"]})
    head_files.set_labels(model, saved.document, options.id2label)
    return None, saved, expected


def add_head(model: Any, name: str, config: HeadConfig) -> None:
    """Add the head, unless it is there with the same config: then its tensors are replaced."""
    if name not in model.heads:
        model.add_prediction_head_from_config(name, config, set_active=model.active_head is None)
    elif not same_layers(model.heads[name].config, config):
        raise AdapterMismatchError(
            f"The model has a head {name!r} with another config. Load under a new name (load_as=...) or delete it first."
        )
    elif (label2id := config.get("label2id")) is not None:
        model.heads[name].config["label2id"] = dict(label2id)
