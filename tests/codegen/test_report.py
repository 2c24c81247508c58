"""Diagnostics in their three renderings. The texts are snapshots: a change of wording is meant to be seen."""

from __future__ import annotations

import json

import pytest

from adapter_codegen.diagnostics import report
from adapter_codegen.model import Diagnostic, Level, Location, Method

PATH = "models/tiny/modeling_tiny.py"
SOURCE = "import torch\n\n\tx = self.attend(q, k, v,\n\t\tmask)\n"


def diagnostic(location: Location | None = None, level: Level = Level.WARNING, **changes: object) -> Diagnostic:
    values: dict[str, object] = {
        "code": "P203",
        "level": level,
        "message": "No rule claims the mask.",
        "remedy": "Add a rule to plan/attention.py.",
        "location": location,
        "methods": (Method.PREFIX_TUNING,),
    }
    return Diagnostic(**{**values, **changes})  # type: ignore[arg-type]


def sources(path: str) -> str | None:
    return SOURCE if path == PATH else None


def test_a_place_on_one_line_has_a_caret_under_each_of_its_characters() -> None:
    shown = report.text(diagnostic(Location(PATH, 1, 7, 1, 12)), sources).plain
    assert shown == """\
warning[P203]: No rule claims the mask.
 --> models/tiny/modeling_tiny.py:1:8
  |
1 | import torch
  |        ^^^^^
  = not supported: prefix_tuning
  = help: Add a rule to plan/attention.py."""


def test_a_place_over_several_lines_is_underlined_to_the_end_of_the_first_and_tabs_stay_tabs() -> None:
    lines = report.text(diagnostic(Location(PATH, 3, 5, 4, 7)), sources).plain.split("\n")
    assert lines[3:5] == ["3 | \tx = self.attend(q, k, v,", "  | \t    " + "^" * 20]


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (None, []),
        (Location("models/other.py", 7, 0, 7, 1), [" --> models/other.py:7:1"]),
        (Location(PATH, 99, 0, 99, 1), ["  --> models/tiny/modeling_tiny.py:99:1"]),
    ],
    ids=["no place", "a file whose text is not at hand", "a line beyond the end of the text"],
)
def test_without_a_source_line_the_report_goes_without_caret(location: Location | None, shown: list[str]) -> None:
    lines = report.text(diagnostic(location), sources).plain.split("\n")
    assert lines[1 : 1 + len(shown)] == shown
    assert not any("^" in line for line in lines)


def test_an_empty_span_still_gets_one_caret() -> None:
    assert "\n  |        ^\n" in report.text(diagnostic(Location(PATH, 1, 7, 1, 7)), sources).plain


def test_what_upstream_wrote_is_never_read_as_markup() -> None:
    assert "[bold]" in report.text(diagnostic(message="A [bold] guess.")).plain


def test_each_diagnostic_is_told_once_and_the_worst_first() -> None:
    note, error = diagnostic(level=Level.NOTE), diagnostic(level=Level.ERROR)
    late, early = diagnostic(Location(PATH, 9, 0, 9, 1)), diagnostic(Location(PATH, 2, 0, 2, 1))
    assert report.collect([note, late, error, early, late]) == (error, early, late, note)


def test_a_summary_counts_by_level() -> None:
    found = [diagnostic(), diagnostic(level=Level.ERROR), diagnostic(level=Level.ERROR)]
    assert report.summary(found) == "2 errors, 1 warning"
    assert report.summary([]) == ""


def test_the_schema_of_the_json_form_is_stable() -> None:
    shown = json.loads(json.dumps(report.record(diagnostic(Location(PATH, 3, 5, 4, 7)))))
    assert shown == {
        "code": "P203",
        "level": "warning",
        "message": "No rule claims the mask.",
        "remedy": "Add a rule to plan/attention.py.",
        "location": {"path": PATH, "line": 3, "column": 6, "end_line": 4, "end_column": 8},
        "methods": ["prefix_tuning"],
    }
    assert report.record(diagnostic())["location"] is None


def test_a_github_annotation_repeats_the_place_and_the_remedy() -> None:
    assert report.github(diagnostic(Location(PATH, 3, 5, 4, 7))) == (
        "::warning title=adapter-codegen P203,file=models/tiny/modeling_tiny.py,line=3,col=6,endLine=4,endColumn=8::"
        "models/tiny/modeling_tiny.py:3:6: No rule claims the mask.%0Ahelp: Add a rule to plan/attention.py."
    )
    assert report.github(diagnostic(level=Level.NOTE)).startswith("::notice title=adapter-codegen P203::")


@pytest.mark.parametrize(
    ("message", "escaped"),
    [("50% of\r\nx", "50%25 of%0D%0Ax"), ("a:b,c", "a:b,c")],
    ids=["per cent and line ends", "colons and commas are plain in a message"],
)
def test_a_github_message_is_escaped(message: str, escaped: str) -> None:
    assert report.github_command("error", message) == f"::error::{escaped}"


def test_a_github_property_also_escapes_what_would_end_it() -> None:
    assert report.github_command("error", "m", file="a,b:c%\n") == "::error file=a%2Cb%3Ac%25%0A::m"
