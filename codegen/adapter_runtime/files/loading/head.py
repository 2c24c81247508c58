"""A head from a folder or the hub into a model: resolve, add, fit, commit.

A model with flexible heads gets a head by name; an upstream class gets the weights of its one head.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterMismatchError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import blamed_on
from adapter_runtime.files.formats.own import can_hold, read_head
from adapter_runtime.files.formats.saved import SavedHead
from adapter_runtime.files.formats.static_heads import as_flexible, as_static
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import require_fit, require_same_type
from adapter_runtime.files.names import HEAD_FILES
from adapter_runtime.files.options import AS_THEY_ARE, LoadOptions
from adapter_runtime.files.source import Source, local_folder
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.heads.factory import same_layers
from adapter_runtime.heads.protocol import head_named, is_flexible

logger = logging.getLogger(__name__)


def load_head(
    model: AdaptedModel, source: Source, options: LoadOptions = AS_THEY_ARE, set_active: bool = False
) -> str | None:
    """Read a head; see `AdapterFilesMixin.load_head`.

    Returns:
        The name of the head; None for the head of an upstream class.

    Raises:
        AdapterMismatchError: the model cannot hold a head, or not this one.
        AdapterFileError: a file is missing or damaged.
    """
    folder = local_folder(source, HEAD_FILES, options.revision, options.download)
    if head_files.is_bare(model):
        raise AdapterMismatchError(f"A {head_files.upstream_class_name(model)} has no head to load {folder} into.")
    with unchanged_on_error(model, model.adapters_config), Transaction() as transaction:
        name = put_head(model, read_head(folder, options), options, transaction)
        if set_active and name is not None and is_flexible(model):
            model.active_head = name
    return name


def put_head_beside(
    model: AdaptedModel,
    folder: Path,
    saved: SavedHead | None,
    name: str | None,
    options: LoadOptions,
    transaction: Transaction,
) -> None:
    """Put the head that was saved with an adapter or a fusion into a model, where there is one and the model can hold it."""
    if saved is None:
        if options.id2label is not None:
            logger.warning("Names of labels were given, but no head was loaded from %s.", folder)
    elif can_hold(model, saved.document):
        put_head(model, saved, replace(options, load_as=name), transaction)
    else:
        logger.warning(
            "The head beside the adapter in %s, of a %s, was not loaded into a %s.",
            folder,
            saved.document.get("model_class"),
            head_files.upstream_class_name(model),
        )


def put_head(model: AdaptedModel, saved: SavedHead, options: LoadOptions, transaction: Transaction) -> str | None:
    """Put a head into a model. Returns its name; None for the head of an upstream class.

    What goes wrong on the way is to be undone by the caller: with `unchanged_on_error`, around the transaction.
    """
    require_same_type(model, saved.origin, f"The head from {saved.folder}", options.strict)
    with blamed_on(saved.folder / HEAD_FILES.config):
        head = resolve(model, saved, options)
        add(model, head, options.id2label)
    expected = head_files.static_tensors(model) if head.name is None else head_files.flexible_tensors(model, head.name)
    given = fit(model, saved, head, expected, options.strict)
    transaction.copy(given, expected)
    return head.name


@dataclass(frozen=True)
class NewHead:
    """A head as the model shall have it."""

    name: str | None  # None = the head of an upstream class
    config: HeadConfig  # of a flexible head
    label2id: Json  # the labels of the head of an upstream class, unchecked; None = the file does not say
    tensors: Tensors  # named as in the model


def resolve(model: AdaptedModel, saved: SavedHead, options: LoadOptions) -> NewHead:
    """What the model shall get. A flexible head is converted for an upstream class, and the reverse. The model is not changed.

    Raises:
        AdapterFileError: the head cannot be converted, or its document is incomplete.
        AdapterMismatchError: the class of the model has another head.
    """
    if is_flexible(model):
        name, config, tensors = as_flexible(
            saved.document, saved.tensors, options.load_as, model.base_model_prefix, model.config
        )
        return NewHead(check_name(name, "head"), head_files.with_labels(config, options.id2label), None, tensors)
    flexible = saved.document.get("config")
    if not isinstance(flexible, Mapping):
        return NewHead(None, {}, saved.document.get("label2id"), saved.tensors)
    own = head_files.upstream_class_name(model)
    tensors = as_static(saved.document, saved.tensors, own, model.config, head_files.static_tensors(model))
    return NewHead(None, {}, flexible.get("label2id"), tensors)


def add(model: AdaptedModel, head: NewHead, id2label: Mapping[int, str] | None) -> None:
    """Make room for a flexible head, unless it is there with the same config. For an upstream class: name its labels.

    Raises:
        AdapterMismatchError: a head of this name is there with another config.
    """
    if head.name is None or not is_flexible(model):
        head_files.set_labels(model, head.label2id, id2label)
    elif head.name not in model.heads:
        model.add_prediction_head_from_config(head.name, head.config, set_active=model.active_head is None)
    elif not same_layers(head_named(model, head.name).config, head.config):
        raise AdapterMismatchError(
            f"The model has a head {head.name!r} with another config. Load under a new name (load_as=...) or delete it first."
        )
    elif (labels := head.config.get("label2id")) is not None:
        head_named(model, head.name).config["label2id"] = dict(labels)


def fit(
    model: AdaptedModel, saved: SavedHead, head: NewHead, expected: Mapping[str, torch.Tensor], strict: bool
) -> Tensors:
    """The tensors of the head, compared with what the model expects.

    Raises:
        AdapterMismatchError: one has another shape; or, if `strict`, some are missing or unknown.
    """
    given = head.tensors
    if saved.may_be_tied:
        tied = model.get_expanded_tied_weights_keys()
        given = {key: tensor for key, tensor in given.items() if key not in tied}
    if saved.is_partial:
        expected = {key: tensor for key, tensor in expected.items() if key in given}
    title = saved.title or f"{'The head' if head.name is None else f'Head {head.name!r}'} from {saved.folder}"
    require_fit(model, given, expected, title, saved.origin, strict)
    return given
