"""Files of `adapters` that load, but would compute something else here than where they were trained.

The library does something of its own with some models, which no option of ours repeats. Such a file is refused; without
`strict` it is loaded with a warning. Where do I add a case?  A row of `_CASES`, by the facts of that library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import AdapterMismatchError
from adapter_runtime.files.formats.legacy import Document, version_of_adapters
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.placing import members
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig

logger = logging.getLogger(__name__)


class Case(NamedTuple):
    """What `adapters` does with some adapters of some models."""

    model_types: frozenset[str]
    concerns: Callable[[AdapterConfig], bool]
    deed: str


_CASES = (
    Case(
        frozenset({"t5", "mt5"}),
        lambda config: isinstance(config, PrefixTuningConfig),
        "moves the relative positions of all keys by the length of a prefix",
    ),
    Case(
        frozenset({"albert"}),
        lambda config: isinstance(config, BnConfig) and config.mh_adapter,
        "gives the adapter after attention its two inputs in exchanged places",
    ),
)


def require_faithful(document: Document, config: AdapterConfig, strict: bool) -> None:
    """Raise, or without `strict` warn, where `adapters` computed something else with the adapter of a file.

    Raises:
        AdapterMismatchError: it did. The model must not have been changed yet.
    """
    if version_of_adapters(document) is None:
        return
    for case in _CASES:
        if document.get("model_type") in case.model_types and any(map(case.concerns, members(config))):
            message = _message(document, case)
            if strict:
                raise AdapterMismatchError(f"{message} To load it all the same: strict=False. The model is unchanged.")
            logger.warning(message)


def _message(document: Mapping[str, Any], case: Case) -> str:
    return (
        f"The file was written by `adapters`, which in models of type {document['model_type']!r} {case.deed}. Its adapter would "
        "compute something else here. Train it anew."
    )
