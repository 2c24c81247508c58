"""Compares the interface of a model with the one in the file beside an adapter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterMismatchError
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.table import specs_of
from adapter_runtime.model.interface.declaration import AdapterModelInterface, Interface, by_part, parse_interface

logger = logging.getLogger(__name__)


def described(interface: Interface | None) -> dict[str, Json] | None:
    """What ``adapter_interface.json`` says of a model with this interface; None for a generated model."""
    if interface is None:
        return None
    parts = {path: part.to_dict() for path, part in by_part(interface).items()}
    return {"interface": parts[""]} if set(parts) == {""} else {"interfaces": parts}


def check_interface(
    mine: Interface | None, path: Path, document: Mapping[str, Json], config: AdapterConfig, strict: bool
) -> None:
    """Raise, or without `strict` warn, where an adapter was trained with modules at other places than this model has.

    Args:
        mine: the interface of the model; None for a generated one.
        path: of the file beside the adapter.
        document: what it says.
        config: of the adapter.

    Raises:
        AdapterMismatchError: the interface beside the adapter differs from that of the model, or a generated model would
            compute something else.
        AdapterFileError: it is no interface.
    """
    theirs = by_part(parse_interface(path, document))
    problem = _generated_differs(theirs, config) if mine is None else _difference(theirs, by_part(mine))
    if problem is None:
        return
    message = f"The adapter in {path.parent} was written from a model with the interface in {path.name}. {problem}"
    if strict:
        raise AdapterMismatchError(
            f"{message} Use that interface: init(model, interface=AdapterModelInterface.load({str(path.parent)!r})) on a fresh "
            "model; or pass strict=False. The model is unchanged."
        )
    logger.warning(message)


def _difference(theirs: Mapping[str, AdapterModelInterface], mine: Mapping[str, AdapterModelInterface]) -> str | None:
    if set(theirs) != set(mine):
        return f"It describes the parts {sorted(theirs)}; this model was described by {sorted(mine)}."
    for path, part in theirs.items():
        for name in part.differences(mine[path]):
            return f"Its {name} is {part.to_dict()[name]!r}; in this model it is {mine[path].to_dict()[name]!r}."
    return None


def _generated_differs(theirs: Mapping[str, AdapterModelInterface], config: AdapterConfig) -> str | None:
    """What generated code would do otherwise with such an adapter; None = nothing."""
    asked = (spec for member in members(config) for spec in specs_of(member))
    problems = (spec.generated_differs(part) for spec in asked for part in theirs.values())
    return next((problem for problem in problems if problem is not None), None)
