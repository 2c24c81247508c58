"""From what a user names (a folder, an id on the Hugging Face hub) to a local folder with the files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is imported there
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files.names import ADAPTER_FILES, HEAD_FILES, INTERFACE_FILE, PEFT_FILES, SETUP_FILE, FileSet
from adapter_runtime.files.options import DownloadOptions

Source = str | os.PathLike[str]  # a folder, or the id of a repository of the hub
# What is raised where the hub cannot be reached.
UNREACHABLE: tuple[type[Exception], ...] = (HTTPError, OfflineModeIsEnabled)
_OFFLINE_HINT = (
    " The hub was not asked (HF_HUB_OFFLINE=1, or local_files_only=True), and the cache has no copy of it. Load it once"
    " while online, or give a folder."
)


def local_folder(
    source: Source, files: FileSet, revision: str | None = None, download: DownloadOptions | None = None
) -> Path:
    """The folder that holds the files of an adapter, a head or a fusion.

    Args:
        source: a folder, or else the id of a repository of the hub, from which only the files needed are fetched.
        revision: branch, tag or commit of the repository.
        download: further options of `huggingface_hub.snapshot_download`, and "subfolder", in a folder too.

    Raises:
        AdapterFileError: neither is there; the message says what was looked for.
    """
    weights = [files.safetensors, files.pickle]
    if files is ADAPTER_FILES:  # PEFT gives its config the same name
        weights += [PEFT_FILES.safetensors, PEFT_FILES.pickle]
    beside = [HEAD_FILES.config, HEAD_FILES.safetensors, HEAD_FILES.pickle, INTERFACE_FILE]
    return _find(source, files.kind, files.config, [files.config, *weights, *beside], revision, download or {})


def local_setup(source: Source, revision: str | None = None, download: DownloadOptions | None = None) -> Path:
    """The folder that holds a setup: its document, and below it one folder for each part. See `local_folder`."""
    patterns = [SETUP_FILE, *(f"*.{ending}" for ending in ("json", "safetensors", "bin"))]
    return _find(source, "adapter setup", SETUP_FILE, patterns, revision, download or {})


def _find(
    source: Source, kind: str, config: str, patterns: Sequence[str], revision: str | None, download: DownloadOptions
) -> Path:
    path, subfolder = Path(source), download.get("subfolder") or ""
    if path.is_dir():
        path = path / subfolder
        if not (path / config).is_file():
            found = ", ".join(sorted(child.name for child in path.iterdir())[:10]) if path.is_dir() else ""
            raise AdapterFileError(f"{path} is no saved {kind}: it has no {config}, only: {found or 'nothing'}.")
        return path
    if path.exists():
        raise AdapterFileError(f"{path} is a file. Give the folder that holds {config}.")
    if "://" in str(source):
        raise AdapterFileError(
            f"{source!r} is an address. Archives are not fetched from addresses; unpack it and give the folder."
        )
    if subfolder:
        patterns = [f"{subfolder}/{pattern}" for pattern in patterns]
    folder = _download(str(source), patterns, revision, download) / subfolder
    if not (folder / config).is_file():
        raise AdapterFileError(
            f"There is no folder {str(source)!r}, and the repository of that name on the hub has no"
            f" {'/'.join(filter(None, (subfolder, config)))}: it holds no {kind}."
        )
    return folder


def _download(source: str, patterns: Sequence[str], revision: str | None, options: DownloadOptions) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                source,
                revision=revision,
                allow_patterns=list(patterns),
                cache_dir=options.get("cache_dir"),
                force_download=options.get("force_download", False),
                local_files_only=options.get("local_files_only", False),
                token=options.get("token"),
            )
        )
    except HFValidationError as error:
        reason = f"it cannot be the id of a repository of the hub: {error}"
        raise AdapterFileError(f"{_looked_for(source)}, and {reason}") from error
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        raise AdapterFileError(f"{_looked_for(source)}, and {_reason(source, revision, error, options)}") from error


def _looked_for(source: str) -> str:
    return f"There is no folder {source!r} (looked for {Path(source).absolute()})"


def _reason(source: str, revision: str | None, error: Exception, options: DownloadOptions) -> str:
    """What the hub answered, in words."""
    where = f"{huggingface_hub.constants.ENDPOINT}/{source}"
    if isinstance(error, RevisionNotFoundError):
        return f"the repository {where} has no revision {revision!r}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {where}, or it is private and the token gives no access to it. Check the"
            " spelling, or pass token=..."
        )
    if isinstance(error, LocalEntryNotFoundError) and _is_offline(options):
        return f"the repository {where} could not be looked at.{_OFFLINE_HINT}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return f"the hub does not give access to {where} (status {status}). Log in, or pass token=..."
    return f"the hub gave no repository {where}: {error}"


def _is_offline(options: DownloadOptions) -> bool:
    return bool(options.get("local_files_only") or huggingface_hub.constants.is_offline_mode())
