"""Errors of reading and writing adapter files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Say which file it was when what it describes cannot be made: a text where a number should be, a list for a name.

    Raises:
        AdapterFileError: in the place of errors that are not about files.
    """
    try:
        yield
    except AdapterError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise AdapterFileError(f"What {path} describes cannot be made ({reason}).") from error
