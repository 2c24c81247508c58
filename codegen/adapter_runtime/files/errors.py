"""Errors of reading and writing adapter files."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_runtime.errors import AdapterError

_SHOWN = 8


class AdapterFileError(AdapterError, OSError):
    """A file is missing, cannot be read, or does not hold what it should."""


class AdapterMismatchError(AdapterError, ValueError):
    """The tensors of a file do not fit the model. The model is as it was before the call."""


def listing(names: Iterable[str]) -> str:
    """Names for a message, one a line, shortened where there are many."""
    ordered = sorted(names)
    lines = [f"    {name}" for name in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        lines.append(f"    ... and {len(ordered) - _SHOWN} more")
    return "\n".join(lines)
