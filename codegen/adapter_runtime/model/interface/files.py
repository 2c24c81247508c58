"""``adapter_interface.json``: the interface of a model, beside each of its adapters and beside the whole model.

``{"model_type": ..., "interface": {the fields}, "version": ...}``. A model with several interfaces has "interfaces" instead,
with the fields of each by the path of its part.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import cached_file

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError, InvalidConfigError
from adapter_runtime.files.documents import read_document, write_document
from adapter_runtime.files.names import INTERFACE_FILE
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.union import members
from adapter_runtime.model.interface.declaration import AdapterModelInterface, Interface, by_part

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

logger = logging.getLogger(__name__)


def write_interface(model: ModelAdaptersMixin, folder: Path, version: str) -> None:
    """Write the interface of a model that has one; nothing for generated models."""
    interface = interface_of(model)
    if interface is None:
        return
    parts = {path: part.to_dict() for path, part in by_part(interface).items()}
    said = {"interface": parts[""]} if set(parts) == {""} else {"interfaces": parts}
    document = {"model_type": model.adapters_base.config.model_type, **said, "version": version}
    write_document(folder / INTERFACE_FILE, document)


def interface_of(model: ModelAdaptersMixin) -> Interface | None:
    """The interface that a model was made with; None for generated models."""
    return getattr(model.adapters_base, "adapter_interface", None)


def read_interface(source: str | os.PathLike[str], **options: Any) -> Interface:
    """The interface that a folder, or a repository of the hub, holds.

    Args:
        options: of ``from_pretrained``: revision, token, cache_dir ...

    Raises:
        AdapterFileError: there is none, or the file is damaged.
    """
    interface = find_interface(source, **options)
    if interface is None:
        raise AdapterFileError(
            f"{source} has no {INTERFACE_FILE}. It is written beside adapters of models with an interface."
        )
    return interface


def find_interface(source: str | os.PathLike[str], **options: Any) -> Interface | None:
    """The same; None where there is no such file."""
    path = Path(source) / INTERFACE_FILE
    if Path(source).is_dir():
        return parse_interface(path) if path.is_file() else None
    found = cached_file(
        str(source),
        INTERFACE_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
        **options,
    )
    return parse_interface(Path(found)) if found is not None else None


def parse_interface(path: Path) -> Interface:
    """The interface in a file.

    Raises:
        AdapterFileError: the file is damaged, or its fields are not those of an interface.
    """
    document = read_document(path)
    try:
        if "interfaces" in document:
            return {part: _fields(fields) for part, fields in _object(document["interfaces"]).items()}
        return _fields(document.get("interface"))
    except InvalidConfigError as error:
        raise AdapterFileError(f"{path}: {error}") from error


def _fields(fields: Any) -> AdapterModelInterface:
    return AdapterModelInterface.from_dict(_object(fields))


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"An object with the fields of an interface was expected, not {value!r}.")
    return value


def check_interface(model: ModelAdaptersMixin, folder: Path, config: AdapterConfig, strict: bool) -> None:
    """Raise, or without `strict` warn, where an adapter was trained with modules at other places than this model has.

    Raises:
        AdapterMismatchError: the interface beside the adapter differs from that of the model, or a generated model would
            compute something else.
    """
    path = folder / INTERFACE_FILE
    if not path.is_file():
        return
    theirs, mine = by_part(parse_interface(path)), interface_of(model)
    problem = _generated_differs(theirs, config) if mine is None else _difference(theirs, by_part(mine))
    if problem is None:
        return
    message = f"The adapter in {folder} was written from a model with the interface in {path.name}. {problem}"
    if strict:
        raise AdapterMismatchError(
            f"{message} Use that interface: init(model, interface=AdapterModelInterface.load({str(folder)!r})) on a fresh "
            "model; or pass strict=False. The model is unchanged."
        )
    logger.warning(message)


def _difference(theirs: Mapping[str, AdapterModelInterface], mine: Mapping[str, AdapterModelInterface]) -> str | None:
    if set(theirs) != set(mine):
        return f"It describes the parts {sorted(theirs)}; this model was described by {sorted(mine)}."
    for path, part in theirs.items():
        for name in part.differences(mine[path]):
            return f"Its {name} is {getattr(part, name)!r}; in this model it is {getattr(mine[path], name)!r}."
    return None


def _generated_differs(theirs: Mapping[str, AdapterModelInterface], config: AdapterConfig) -> str | None:
    """What generated code, which knows the real residual stream and norms, would do otherwise."""
    if not any(isinstance(member, BnConfig) for member in members(config)):
        return None
    for part in theirs.values():
        for name in ("layer_ln_1", "layer_ln_2"):
            if getattr(part, name) is not None:
                return (
                    f"Its bottlenecks apply the norm {getattr(part, name)!r} ({name}) by themselves; those of the classes "
                    "generated for this model do not."
                )
        for name in ("layer_pre_self_attn", "layer_pre_ffn"):
            if getattr(part, name) is None:
                return (
                    f"It gives no {name}, so its bottlenecks do not see the residual stream; those of the classes "
                    "generated for this model do."
                )
    return None
