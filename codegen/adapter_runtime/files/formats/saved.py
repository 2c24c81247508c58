"""What a format gives: what lies in a folder, under the names of this library. It has not been compared with a model yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.files.documents import Document
from adapter_runtime.files.formats.interface import InterfaceFile
from adapter_runtime.files.tensors import Tensors


@dataclass(frozen=True)
class Origin:
    """What a file says about the model that it was written from; None for what it does not say."""

    model_type: Json = None
    model_class: Json = None
    hidden_size: Json = None

    @staticmethod
    def of(document: Document) -> Origin:
        """What `document` says."""
        return Origin(document.get("model_type"), document.get("model_class"), document.get("hidden_size"))


def accept(config: AdapterConfig, strict: bool) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class SavedHead:
    """A head in a folder, flexible or of one of upstream's classes."""

    folder: Path
    # "config" and "name" of a flexible head; "model_class" and labels of a head of one of upstream's classes
    document: Document
    tensors: Tensors  # named as in the model that it was written from; empty where this model cannot hold the head
    title: str = ""  # what messages call it; "" = by its name and folder
    origin: Origin | None = None  # None = its format does not say
    is_partial: bool = False  # tensors of the model that are not in the file stay as they are
    may_be_tied: bool = (
        True  # tensors that the model ties to its embeddings are ignored; False = each must have a place of its own
    )


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter in a folder, and the head that was saved with it."""

    folder: Path
    name: Json  # as the file gives it, unchecked; None = it gives none
    config: Json  # options or the name of a config, unchecked, or an `AdapterConfig`; None = the file has none
    tensors: Tensors  # named as in a model with an adapter `written_as`
    written_as: str
    title: str = ""  # what messages call it; "" = by its name and folder
    origin: Origin | None = None  # None = its format does not say
    interface: InterfaceFile | None = None  # where the modules were in a model without generated classes
    head: SavedHead | None = None
    # Raises, or without `strict` warns, where an adapter of this config would give other outputs than where it was saved
    refuse: Callable[[AdapterConfig, bool], None] = accept


@dataclass(frozen=True)
class SavedFusion:
    """A fusion in a folder, without the adapters that it mixes, and the head that was saved with it."""

    folder: Path
    name: Json  # as the file gives it, unchecked; None = it gives none
    adapter_names: tuple[str, ...]
    config: Json  # options or the name of a config, unchecked
    tensors: Mapping[str, torch.Tensor]  # of all fusions in the file
    origin: Origin
    head: SavedHead | None = None
