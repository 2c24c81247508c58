"""What the README and the guides show is what happens: their Python runs, and their terminal sessions are repeated.

A fence ```python is executed, all fences of a page one after the other in one namespace, in an empty folder. A fence
```console holds commands after "$ " and what they print; "..." stands for anything (as in doctest). Commands of other
programs (pip, tox, git) are not repeated, and neither is what would write into the checkout: that stands in ```shell.

Where the tool now prints something else and that is right, ``UPDATE_SESSIONS=1 pytest tests/test_readme.py`` (without -n)
writes it into the pages.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from adapter_codegen.cli import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "docs/quickstart.md",
    "docs/methods.md",
    "docs/training.md",
    "docs/moving-from-adapters.md",
    "docs/composition.md",
    "docs/heads.md",
    "docs/files.md",
    "docs/interface.md",
    "docs/command-line.md",
    "docs/adding-a-model.md",
    "docs/drift.md",
]


class Session(NamedTuple):
    page: str
    line: int
    command: str
    expected: str


def fences(page: str, language: str) -> Iterator[tuple[int, str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 2, match[1]


def sessions(page: str) -> Iterator[Session]:
    """Every command of the tool on the page, with what stands below it."""
    for start, text in fences(page, "console"):
        for match in re.finditer(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
            if match[1].startswith("adapter-codegen "):
                yield Session(page, start + text.count("\n", 0, match.start()), match[1], match[2])


def update(session: Session, printed: str) -> None:
    """Put what the command printed into the page. A command stands once on a page with the same output below it."""
    path = ROOT / session.page
    text = path.read_text(encoding="utf-8")
    shown = "".join(f"{line.rstrip()}\n" for line in printed.strip("\n").splitlines())
    before = f"```console\n$ {session.command}\n"
    assert (
        text.count(before + session.expected) == 1
    ), f"a session that is updated stands in a fence of its own: {session}"
    path.write_text(text.replace(before + session.expected, before + shown), encoding="utf-8")


SESSIONS = [session for page in PAGES for session in sessions(page)]


def writes(command: str) -> bool:
    words = set(shlex.split(command))
    return bool(words & {"add-model", "remove-model"}) and not words & {"--dry-run", "--diff", "--help"}


def matches(expected: str, printed: str) -> bool:
    def plain(text: str) -> str:
        lines = [line.rstrip() for line in text.strip().splitlines()]
        return "\n".join(lines) + "\n"

    return doctest.OutputChecker().check_output(plain(expected), plain(printed), doctest.ELLIPSIS)


@pytest.mark.parametrize("page", [page for page in PAGES if any(fences(page, "python"))])
def test_python_of_the_page_runs(page: str, tmp_path: Path) -> None:
    # Blank lines in place of the prose keep the page's line numbers in a traceback.
    lines: list[str] = []
    for start, code in fences(page, "python"):
        lines += [""] * (start - 1 - len(lines)) + code.splitlines()
    script = tmp_path / Path(page).with_suffix(".py").name
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: f"{session.page}:{session.line} {session.command}")
def test_command_prints_what_the_page_shows(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    if writes(session.command):
        pytest.fail(f"{session.page}:{session.line} would write into the checkout: put it into a fence ```shell")
    monkeypatch.chdir(ROOT)
    # Its `output` is both streams in the order of writing, as a terminal shows them.
    printed = (
        CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"})
        .invoke(cli, shlex.split(session.command)[1:], prog_name="adapter-codegen")
        .output
    )
    if os.environ.get("UPDATE_SESSIONS") and not matches(session.expected, printed):
        update(session, printed)
        return
    assert matches(session.expected, printed), f"{session.page}:{session.line} now prints:\n{printed}"


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        pytest.param("a\nb\n", "a\nc\n", False, id="another line is noticed"),
        pytest.param("a\n", "a\nb\n", False, id="a line that is not shown is noticed"),
        pytest.param("a\n...\nc\n", "a\nb\nb\nc\n", True, id="an ellipsis stands for some lines"),
        pytest.param("a\n", "a  \n", True, id="blanks at the end of a line do not count"),
    ],
)
def test_comparison_of_a_session(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
