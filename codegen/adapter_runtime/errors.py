"""Errors of the runtime. Each message says what was found, what is there, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: the known names that are spelled most like `name`, or all of them."""
    known = sorted(known)
    if not known:
        return "There are none."
    close = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known: {', '.join(map(repr, known))}."
