"""Files in memory -> files on disk: only those that changed, each whole or not at all, and never over a hand edit."""

from __future__ import annotations

import os
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.emit.manifest import digest

Digests = Mapping[str, str]  # path -> sha256 of the text that the tool wrote there last time


@dataclass(frozen=True)
class Changes:
    """What writing does, or did. Paths are relative to the root and sorted."""

    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]

    def by_verb(self) -> dict[str, tuple[str, ...]]:
        """The paths under the word that says what happens to them."""
        return {
            "created": self.created,
            "updated": self.updated,
            "deleted": self.deleted,
            "unchanged": self.unchanged,
        }

    def __bool__(self) -> bool:
        return bool(self.created or self.updated or self.deleted)


def changes(root: Path, files: Mapping[str, str], obsolete: Iterable[str] = ()) -> Changes:
    """What `write` would do; nothing is written.

    Raises:
        CodegenError: a path leads out of the root (E101).
    """
    on_disk = {path: read(root, path) for path in files}
    return Changes(
        created=tuple(sorted(path for path, content in on_disk.items() if content is None)),
        updated=tuple(
            sorted(path for path, content in on_disk.items() if content not in (None, files[path].encode()))
        ),
        deleted=tuple(sorted(path for path in set(obsolete) - set(files) if read(root, path) is not None)),
        unchanged=tuple(sorted(path for path, content in on_disk.items() if content == files[path].encode())),
    )


def write(
    root: Path,
    files: Mapping[str, str],
    obsolete: Iterable[str] = (),
    written: Digests | None = None,
    overwrite: bool = False,
) -> Changes:
    """Bring the tree below `root` in step with `files`.

    Args:
        files: path -> text of everything that shall exist.
        obsolete: paths that the tool wrote before and that shall exist no longer.
        written: digests of what the tool wrote last time. A file that is neither that nor what shall be written was
            edited by hand.
        overwrite: write over files that were edited by hand.

    Raises:
        CodegenError: a file was edited by hand (E102), the root is in an installed package (E103), or a path leads out
            of the root (E101). Nothing was written then.
    """
    refuse_installation(root)
    planned = changes(root, files, obsolete)
    edited = hand_edited(root, (*planned.updated, *planned.deleted), written or {})
    if edited and not overwrite:
        raise CodegenError(*(Problem.HAND_EDITED.diagnostic(path=path) for path in edited))
    for path in (*planned.created, *planned.updated):
        _write_whole(_inside(root, path), files[path].encode())
    for path in planned.deleted:
        _delete(root, path)
    return planned


def hand_edited(root: Path, paths: Iterable[str], written: Digests) -> tuple[str, ...]:
    """Those of `paths` that exist and are not what the tool wrote there."""
    contents = ((path, read(root, path)) for path in sorted(paths))
    return tuple(path for path, content in contents if content is not None and digest(content) != written.get(path))


def read(root: Path, path: str) -> bytes | None:
    """The file at `path` below `root`; None where there is none."""
    try:
        return _inside(root, path).read_bytes()
    except FileNotFoundError:
        return None


def refuse_installation(root: Path) -> None:
    """Raises CodegenError (E103) if `root` is where packages are installed."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    resolved = root.resolve()
    if "site-packages" in resolved.parts or installed & {resolved, *resolved.parents}:
        raise Problem.INSTALLED_FOLDER.error(root=root)


def _inside(root: Path, path: str) -> Path:
    parts = PurePosixPath(path).parts
    target = root.joinpath(*parts)
    bad = not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path
    # A link in the tree must not lead out of it either.
    if bad or not target.resolve().is_relative_to(root.resolve()):
        raise Problem.PATH_OUTSIDE_TREE.error(path=path, root=root)
    return target


def _write_whole(target: Path, content: bytes) -> None:
    """Through a temporary file in the same folder: a reader sees the old file or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _delete(root: Path, path: str) -> None:
    """The file, and its folder if nothing but Python's caches is left in it."""
    target = _inside(root, path)
    target.unlink()
    cache = target.parent / "__pycache__"
    if target.parent != root and all(entry == cache for entry in target.parent.iterdir()):
        for compiled in cache.glob("*.pyc"):
            compiled.unlink()
        for folder in (cache, target.parent):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
