"""The formats of adapters, and which of them a folder is in.

Where do I add a format?  A file that recognises its JSON and reads a folder into a `SavedAdapter`, and a line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.files.documents import Document, blamed_on, read_document
from adapter_runtime.files.formats import legacy, own, peft
from adapter_runtime.files.formats.saved import SavedAdapter
from adapter_runtime.files.names import ADAPTER_FILES
from adapter_runtime.files.options import LoadOptions


class Format(NamedTuple):
    """One way in which adapters lie in folders. All have a document ``adapter_config.json``."""

    recognise: Callable[[Document], bool]
    # Gets the model that the adapter is for: PEFT names modules where this library names roles
    read: Callable[[AdaptedModel, Path, Document, LoadOptions], SavedAdapter]


FORMATS = (
    Format(peft.recognise, peft.read),
    Format(own.recognise, own.read),
    Format(legacy.recognise, legacy.read),
)


def read_adapter_files(model: AdaptedModel, folder: Path, options: LoadOptions) -> SavedAdapter:
    """The adapter in `folder`, read by the first format that recognises it.

    Raises:
        AdapterFileError: a file is missing or damaged.
        UnsupportedMethodError: the format has no counterpart here of what is in the file.
    """
    path = folder / ADAPTER_FILES.config
    document = read_document(path)
    with blamed_on(path):
        found = next(form for form in FORMATS if form.recognise(document))
        return found.read(model, folder, document, options)
