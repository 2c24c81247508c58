"""Files of `adapters` that load, but would compute something else here than where they were trained.

`adapters` treats some models in ways that no option of this library reproduces. Such a file is refused; without
`strict` it is loaded with a warning. What it only does wrong in some calls is loaded with a warning in any case. Where do I add a case?  In
the `MethodSpec` of the method, by the facts of that library.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from packaging.version import Version

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.errors import AdapterMismatchError
from adapter_runtime.files.documents import Document
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.table import specs_of

logger = logging.getLogger(__name__)


def version_of_adapters(document: Document) -> Version | None:
    """The version of `adapters` that wrote the file; None for other writers."""
    written_by = document.get("version")
    if not isinstance(written_by, str) or not written_by.startswith("adapters."):
        return None
    return Version(written_by.removeprefix("adapters."))


def refuse_if_different(document: Document, config: AdapterConfig, strict: bool) -> None:
    """Raise, or without `strict` warn, where `adapters` computed something else with the adapter of a file.

    Raises:
        AdapterMismatchError: it did. The model must not have been changed yet.
    """
    if version_of_adapters(document) is None:
        return
    for deed in _deeds(document.get("model_type"), config):
        message = (
            f"The file was written by `adapters`, which in models of type {document['model_type']!r} {deed}. Its adapter would "
            "compute something else here. Train it anew."
        )
        if strict:
            raise AdapterMismatchError(f"{message} To load it all the same: strict=False. The model is unchanged.")
        logger.warning(message)


def note_if_different(model: AdaptedModel, document: Document, config: AdapterConfig) -> None:
    """Warn where `adapters` may have computed something else with the adapter of a file that loads here."""
    if version_of_adapters(document) is None:
        return
    for member in members(config):
        for spec in specs_of(member):
            for case in spec.noted_files:
                if case.concerns(model, member):
                    logger.warning(
                        "The file was written by `adapters`, which %s: outputs may be others than there.", case.deed
                    )


def _deeds(model_type: object, config: AdapterConfig) -> Iterator[str]:
    """In what ways `adapters` computes such an adapter differently in such a model, each as the end of a sentence."""
    for member in members(config):
        for spec in specs_of(member):
            yield from (
                case.deed for case in spec.refused_files if model_type in case.model_types and case.concerns(member)
            )
