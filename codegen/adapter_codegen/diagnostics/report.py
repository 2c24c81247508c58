"""Diagnostics as people, programs and GitHub read them.

Three renderings of the same values: `text` draws the place with a caret under it, `record` is the JSON form (a stable
schema: keys are only ever added), `github_command` an annotation of a GitHub workflow. None of them prints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from adapter_codegen.model import Diagnostic, Level, Location

if TYPE_CHECKING:
    from rich.text import Text

Sources = Callable[[str], "str | None"]  # path of a `Location` -> upstream's text, None where it cannot be had

STYLES = {Level.ERROR: "bold red", Level.WARNING: "bold yellow", Level.NOTE: "bold cyan"}
GITHUB_LEVELS = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}
SEVERITY = {Level.ERROR: 0, Level.WARNING: 1, Level.NOTE: 2}


def no_sources(path: str) -> str | None:
    """For reports of which nobody has the text at hand: they go without source lines."""
    return None


def collect(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Each diagnostic once, the worst first, then by place. Reports are deterministic because of this."""
    return tuple(sorted(set(diagnostics), key=_order))


def _order(diagnostic: Diagnostic) -> tuple[object, ...]:
    place = diagnostic.location or Location("", 0, 0, 0, 0)
    return SEVERITY[diagnostic.level], place, diagnostic.code, diagnostic.message


def text(diagnostic: Diagnostic, sources: Sources = no_sources) -> Text:
    """A diagnostic as lines: what, where with a caret under the place, what to do."""
    from rich.text import Text

    style = STYLES[diagnostic.level]
    result = Text.assemble(
        (f"{diagnostic.level.value}[{diagnostic.code}]", style), (f": {diagnostic.message}", "bold")
    )
    gutter = 1
    if diagnostic.location is not None:
        gutter = len(str(diagnostic.location.line))
        result.append_text(_place(diagnostic.location, sources(diagnostic.location.path), style))
    margin = " " * (gutter + 1)
    if diagnostic.methods:
        names = ", ".join(method.value for method in diagnostic.methods)
        result.append_text(Text.assemble(("\n" + margin + "= ", "blue"), f"not supported: {names}"))
    result.append_text(Text.assemble(("\n" + margin + "= ", "blue"), f"help: {diagnostic.remedy}"))
    return result


def _place(location: Location, source: str | None, style: str) -> Text:
    """``--> file:line:column`` and, where the text is at hand, the line with a caret under the place."""
    from rich.text import Text

    margin = " " * len(str(location.line))
    result = Text.assemble((f"\n{margin}--> ", "blue"), str(location))
    line = _line(source, location.line)
    if line is None:
        return result
    before, marked = _carets(line, location)
    result.append(f"\n{margin} |", "blue")
    result.append_text(Text.assemble((f"\n{location.line} | ", "blue"), line))
    result.append_text(Text.assemble((f"\n{margin} | ", "blue"), before, (marked, style)))
    return result


def _line(source: str | None, number: int) -> str | None:
    lines = source.split("\n") if source is not None else []
    return lines[number - 1].rstrip() if 0 < number <= len(lines) else None


def _carets(line: str, location: Location) -> tuple[str, str]:
    """Blanks up to the place (tabs kept, so that it lines up) and carets under its part on the first line."""
    end = location.end_column if location.end_line == location.line else len(line)
    before = "".join("\t" if character == "\t" else " " for character in line[: location.column])
    return before, "^" * max(1, min(end, len(line)) - location.column)


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """``2 errors, 1 warning``; empty where there is nothing."""
    counts = Counter(diagnostic.level for diagnostic in diagnostics)
    return ", ".join(plural(counts[level], level.value) for level in Level if counts[level])


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def record(diagnostic: Diagnostic) -> dict[str, object]:
    """The JSON form. Lines and columns count from 1, as editors do; ``location`` may be null."""
    return {
        "code": diagnostic.code,
        "level": diagnostic.level.value,
        "message": diagnostic.message,
        "remedy": diagnostic.remedy,
        "location": location_record(diagnostic.location),
        "methods": [method.value for method in diagnostic.methods],
    }


def location_record(location: Location | None) -> dict[str, object] | None:
    if location is None:
        return None
    return {
        "path": location.path,
        "line": location.line,
        "column": location.column + 1,
        "end_line": location.end_line,
        "end_column": location.end_column + 1,
    }


def github(diagnostic: Diagnostic) -> str:
    """The diagnostic as an annotation. The place is repeated in the message: upstream's file is not in the checkout,
    so GitHub shows such an annotation without its file."""
    message = f"{diagnostic.message}\nhelp: {diagnostic.remedy}"
    properties: dict[str, object] = {"title": f"adapter-codegen {diagnostic.code}"}
    if diagnostic.location is not None:
        place = diagnostic.location
        message = f"{place}: {message}"
        properties |= {"file": place.path, "line": place.line, "col": place.column + 1}
        properties |= {"endLine": place.end_line, "endColumn": place.end_column + 1}
    return github_command(GITHUB_LEVELS[diagnostic.level], message, **properties)


def github_command(level: str, message: str, **properties: object) -> str:
    """A workflow command (``::error file=...,line=...::message``), escaped as GitHub's toolkit escapes it."""
    listed = ",".join(f"{name}={_escape_property(str(value))}" for name, value in properties.items())
    return f"::{level} {listed}::{_escape_message(message)}" if listed else f"::{level}::{_escape_message(message)}"


def _escape_message(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(value: str) -> str:
    return _escape_message(value).replace(":", "%3A").replace(",", "%2C")
