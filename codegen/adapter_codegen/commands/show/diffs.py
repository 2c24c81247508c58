"""Unified diffs, as text and on a console."""

from __future__ import annotations

import difflib

from rich.text import Text

from adapter_codegen.commands.show.console import Console

STYLES = (("+++", "bold"), ("---", "bold"), ("+", "green"), ("-", "red"), ("@@", "cyan"))


def unified_diff(path: str, before: str | None, after: str | None) -> str:
    """From `before` to `after`, either None where there is no such file; "" if they are the same. ``patch -p1`` reads it."""
    old, new = (f"a/{path}" if before is not None else "/dev/null"), (
        f"b/{path}" if after is not None else "/dev/null"
    )
    lines = difflib.unified_diff(_lines(before), _lines(after), old, new, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _lines(text: str | None) -> list[str]:
    """The lines without their ends. Generated files end with a line feed, so that none needs a remark about it."""
    return (text or "").split("\n")[:-1] if (text or "").endswith("\n") else (text or "").split("\n")


def show_diff(console: Console, diff: str) -> None:
    """Coloured on a terminal, untouched in a pipe."""
    if not console.out.is_terminal:
        console.result(diff.removesuffix("\n"))
        return
    for line in diff.splitlines():
        style = next((style for start, style in STYLES if line.startswith(start)), "")
        console.out.print(Text(line, style), soft_wrap=True)
