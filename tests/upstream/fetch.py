"""``python tests/upstream/fetch.py FOLDER``: upstream's tests for the installed release, out of its source archive.

pip fetches the archive; only the files of its ``tests`` are written, into FOLDER. If they are there already, nothing is done.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

MARK = "release.txt"


def fetch(folder: Path) -> None:
    release = version("transformers")
    mark = folder / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == release:
        return
    with tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*command, "--dest", downloads, f"transformers=={release}"], check=True)
        (archive,) = Path(downloads).glob("transformers-*.tar.gz")
        _extract(archive, folder)
    mark.write_text(release, encoding="utf-8")


def _extract(archive: Path, folder: Path) -> None:
    """Write the files of ``tests`` in `archive` under `folder`."""
    written = 0
    with tarfile.open(archive) as packed:
        for member in packed:
            _, *inside = PurePosixPath(member.name).parts  # below transformers-5.23.0/
            if not member.isfile() or inside[:1] != ["tests"] or ".." in inside:
                continue
            target = folder.joinpath(*inside[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            file = packed.extractfile(member)
            assert file is not None  # a regular file
            target.write_bytes(file.read())
            written += 1
    if not written:
        raise SystemExit(f"{archive.name} holds no tests: upstream no longer ships them. Name a checkout instead.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    fetch(Path(sys.argv[1]))
