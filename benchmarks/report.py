"""Results as tables: printed, and with ``--write`` put into docs/benchmarks.md between the marks of their benchmark."""

from __future__ import annotations

import argparse
import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions() -> str:
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch')}, "
        f"transformers {version('transformers')}"
    )


def parser(description: str) -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=description.partition("\n")[0])
    arguments.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    return arguments


def publish(name: str, text: str, write: bool) -> None:
    """Print `text`; with `write`, replace what stands between the marks of `name` on the page.

    Raises:
        ValueError: the page has no such marks.
    """
    text = f"{text}\n\n{conditions()}."
    print(text)
    if not write:
        return
    page = PAGE.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    page, count = block.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    if count != 1:
        raise ValueError(f"{PAGE.name} has no place for {name!r}: write <!-- {name} --> and <!-- end of {name} -->")
    PAGE.write_text(page, encoding="utf-8")
