"""``adapter_interface.json``: where the modules of a model without generated classes are.

The file lies beside adapters of the model, and beside the model where all of it was saved.

``{"model_type": ..., "interface": {the fields}, "version": ...}``. A model with several interfaces has "interfaces" instead,
with the fields of each by the path of its part.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from transformers.utils import cached_file
from typing_extensions import TypedDict, Unpack

from adapter_runtime.files.documents import Document, read_document
from adapter_runtime.files.names import INTERFACE_FILE


class InterfaceFile(NamedTuple):
    """The file, and what it says."""

    path: Path
    document: Document


class CacheOptions(TypedDict, total=False):
    """What `transformers.utils.cached_file` takes: where a file of the hub is, and who asks."""

    revision: str | None
    token: bool | str | None
    cache_dir: str | os.PathLike[str] | None
    force_download: bool
    local_files_only: bool
    proxies: dict[str, str] | None
    subfolder: str


def interface_beside(folder: Path) -> InterfaceFile | None:
    """The file in a folder; None where there is none.

    Raises:
        AdapterFileError: it is damaged.
    """
    path = folder / INTERFACE_FILE
    return InterfaceFile(path, read_document(path)) if path.is_file() else None


def find_interface_file(source: str | os.PathLike[str], **options: Unpack[CacheOptions]) -> InterfaceFile | None:
    """The file in a folder or in a repository of the hub; None where there is none.

    Raises:
        AdapterFileError: it is damaged.
    """
    if Path(source).is_dir():
        return interface_beside(Path(source))
    found = cached_file(
        str(source),
        INTERFACE_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    return interface_beside(Path(found).parent) if found is not None else None
