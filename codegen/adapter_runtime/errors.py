"""Errors of the runtime. Each message says what was found, what is there, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 8  # names that a message lists


class AdapterError(Exception):
    """Base of all errors that this library raises on purpose."""


class UnsupportedModelError(AdapterError, ValueError):
    """The model has no generated adapter classes, or not for this release of transformers."""


class UnsupportedMethodError(AdapterError, NotImplementedError, ValueError):
    """A method, or an option of it, that cannot be honoured here."""


class UnknownAdapterError(AdapterError, ValueError):
    """A name that no adapter of the model has."""


class InvalidConfigError(AdapterError, ValueError):
    """A config, config string or config file that makes no sense."""


class InvalidCompositionError(AdapterError, ValueError):
    """A composition of adapters that cannot be built or run."""


class AdapterFileError(AdapterError, OSError):
    """A file is missing, cannot be read, or does not hold what it should."""


class AdapterMismatchError(AdapterError, ValueError):
    """The tensors of a file do not fit the model, or a checkpoint lacks parts of it. A model that was there before the call is as it was."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: the known names that are spelled most like `name`, or all of them."""
    known = sorted(known)
    if not known:
        return "There are none."
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known: {', '.join(map(repr, known))}."


def listing(names: Iterable[str]) -> str:
    """Names for a message, one a line, shortened where there are many."""
    ordered = sorted(names)
    lines = [f"    {name}" for name in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        lines.append(f"    ... and {len(ordered) - _SHOWN} more")
    return "\n".join(lines)
