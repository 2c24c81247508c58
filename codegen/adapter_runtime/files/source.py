"""From what a user names (a folder, an id on the Hugging Face hub) to a local folder with the files."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from adapter_runtime.files.errors import AdapterFileError
from adapter_runtime.files.names import FileSet


def local_folder(source: str | os.PathLike[str], files: FileSet, revision: str | None = None) -> Path:
    """The folder that holds the files of an adapter or a head.

    Args:
        source: a folder, or else the id of a repository of the hub, from which only the files needed are fetched.
        revision: branch, tag or commit of the repository.

    Raises:
        AdapterFileError: neither is there; the message says what was looked for.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / files.config).is_file():
            found = ", ".join(sorted(child.name for child in path.iterdir())[:10]) or "nothing"
            raise AdapterFileError(f"{path} is no saved {files.kind}: it has no {files.config}, only: {found}.")
        return path
    if path.exists():
        raise AdapterFileError(f"{path} is a file. Give the folder that holds {files.config}.")
    return _download(str(source), files, revision)


def _download(source: str, files: FileSet, revision: str | None) -> Path:
    patterns = [files.config, files.safetensors, files.pickle]
    problem = f"There is no folder {source!r}"
    try:
        folder = huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=patterns)
    except HFValidationError as error:
        raise AdapterFileError(f"{problem}, and it cannot be the id of a repository of the hub: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise AdapterFileError(f"{problem}, and the hub gave none of that name: {error}") from error
    if not (Path(folder) / files.config).is_file():
        raise AdapterFileError(f"The repository {source!r} has no {files.config}: it holds no {files.kind}.")
    return Path(folder)
