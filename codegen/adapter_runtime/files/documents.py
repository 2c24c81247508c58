"""Reading and writing the JSON files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterError, AdapterFileError

Document: TypeAlias = Mapping[str, Json]  # the object in a JSON file


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a new file, then put it in the place of `path`: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_document(path: Path, content: Document) -> None:
    """Write sorted, indented JSON."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline="\n"))


def read_document(path: Path) -> dict[str, Json]:
    """The object that a JSON file holds.

    Raises:
        AdapterFileError: there is no such file, or it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterFileError(f"There is no file {path}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterFileError(f"{path} is damaged: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise AdapterFileError(f"{path} is damaged: it holds {type(content).__name__}, not an object.")
    return content


@contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Name the file in errors that its contents cause: a string where a number should be, a list in place of a name.

    Raises:
        AdapterFileError: in place of errors that Python raises for wrong types and values.
    """
    try:
        yield
    except AdapterError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise AdapterFileError(f"What {path} describes cannot be made ({reason}).") from error
