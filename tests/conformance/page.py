"""The page of the documentation about the results: a summary, the work list, the losses, and a table to filter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from conformance.methods import FAMILIES
from conformance.results import ModelResult
from conformance.verdicts import Verdict, verdict_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "conformance.md"
DATA = DOCS / "_static" / "conformance-data.js"

_HEAD = """\
<!-- Written by `python -m conformance --write-page` from the results of the checks. Do not edit. -->
# What was tried

Every generated model is run on a tiny instance of itself, against upstream's own class: with no adapter (bit for bit), and with one method
of each family, in every check that applies. A model that fails a check which concerns no method is *refused*: `add-model` does not write
it. Where the checks of a family of methods fail, the family is *dropped*, which is a loss: the model is right with the others. How these
are told apart is in [a design note](design/0017-clean-and-verdicts.md). All of it is for transformers {release}.

"""

_FILTER = """\
## All models

Type into the fields to see less.

```{raw} html
<table id="conformance" class="docutils">
  <thead>
    <tr><th>model</th><th>method</th><th>verdict</th><th>check</th><th>reason</th></tr>
    <tr id="conformance-filters"></tr>
  </thead>
  <tbody></tbody>
</table>
<p id="conformance-count"></p>
<script src="_static/conformance-data.js"></script>
<script src="_static/conformance.js"></script>
```
"""


def page(results: Sequence[ModelResult], release: str, refused: Mapping[str, str]) -> str:
    """The page in Markdown.

    Args:
        refused: model type -> the plan's reason, of those that are refused before anything can be tried.
    """
    verdicts = [verdict_of(result) for result in results]
    parts = [
        _HEAD.format(release=release),
        _summary(results, verdicts),
        _work_list(verdicts),
        _not_planned(refused),
        _losses(verdicts),
        _unconverted(verdicts),
        _FILTER,
    ]
    return "\n".join(parts)


def data(results: Iterable[ModelResult], refused: Mapping[str, str]) -> str:
    """The rows of the table, as a script: a page that is opened from a disk may not fetch a file."""
    found = [row for result in results for row in _rows(verdict_of(result))]
    found += [[name, "all", "not planned", "", reason] for name, reason in refused.items()]
    rows = [json.dumps(row, ensure_ascii=False) for row in found]
    return "const CONFORMANCE = [\n" + ",\n".join(rows) + "\n];\n"


def _rows(verdict: Verdict) -> list[list[str]]:
    name = verdict.model_type
    if verdict.untested:
        return [[name, "all", "untested", "", verdict.untested]]
    if verdict.refused:
        return [[name, "all", "refused", verdict.refused.check, verdict.refused.reason]]
    rows = []
    for family in FAMILIES:
        if family in verdict.dropped:
            failed = verdict.dropped[family]
            rows.append([name, family, "dropped", failed.check, failed.reason])
        elif family in verdict.unplanned:
            rows.append([name, family, "not planned", "", verdict.unplanned[family]])
        else:
            rows.append([name, family, "holds", "", ""])
    return rows


def _summary(results: Sequence[ModelResult], verdicts: Sequence[Verdict]) -> str:
    identity = sum(_holds_identity(result) for result in results)
    clean = [verdict for verdict in verdicts if verdict.clean]
    rows = [
        ("generated", len(verdicts)),
        ("with a tiny instance", sum(not verdict.untested for verdict in verdicts)),
        ("bit for bit upstream's without an adapter", identity),
        ("clean: every check holds for every family that is offered", len(clean)),
        ("clean, and no family that was planned is lost", sum(not verdict.dropped for verdict in clean)),
        ("clean with all six families", sum(len(verdict.families) == len(FAMILIES) for verdict in clean)),
        *((f"clean with {family}", sum(family in verdict.families for verdict in clean)) for family in FAMILIES),
    ]
    return "\n".join(["| model types | |", "|---|---:|", *(f"| {what} | {count} |" for what, count in rows), ""])


def _holds_identity(result: ModelResult) -> bool:
    cells = [cell for cell in result.cells if cell.check == "identity"]
    return any(cell.ran for cell in cells) and not any(cell.failed for cell in cells)


def _work_list(verdicts: Sequence[Verdict]) -> str:
    refused = [(v.model_type, v.refused.check, v.refused.reason) for v in verdicts if v.refused]
    refused += [(v.model_type, "untested", v.untested) for v in verdicts if v.untested]
    intro = f"## Work list\n\n{len(refused)} model types are refused or were not tried.\n"
    return "\n".join([intro, *_table(("model", "check", "reason"), sorted(refused))])


def _not_planned(refused: Mapping[str, str]) -> str:
    intro = f"## Refused by the plan\n\n{len(refused)} model types are refused before anything is generated.\n"
    return "\n".join([intro, *_table(("model", "reason"), sorted(refused.items()))])


def _losses(verdicts: Sequence[Verdict]) -> str:
    lost = [(v.model_type, family, f.check, f.reason) for v in verdicts for family, f in sorted(v.dropped.items())]
    intro = f"## Losses\n\n{len(lost)} families are planned, and dropped because they fail.\n"
    return "\n".join([intro, *_table(("model", "method", "check", "reason"), sorted(lost))])


def _unconverted(verdicts: Sequence[Verdict]) -> str:
    lost = [(v.model_type, name, f.check, f.reason) for v in verdicts for name, f in sorted(v.unconverted.items())]
    intro = (
        f"## Heads that are not converted\n\nThe heads of {len(lost)} of upstream's classes are planned as flexible ones, and do not give"
        " upstream's\noutputs as such. A checkpoint of such a class is loaded without its head, and a warning says so.\n"
    )
    return "\n".join([intro, *_table(("model", "class", "check", "reason"), sorted(lost))])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows), ""]


def _escaped(text: str) -> str:
    """Markdown would take what a message holds (`*`, `<class ...>`, `$`) for its own."""
    for mark in "\\`*_{}[]<>#$|~":
        text = text.replace(mark, f"\\{mark}")
    return text


def write_page(results: Sequence[ModelResult], release: str, refused: Mapping[str, str]) -> None:
    PAGE.write_text(page(results, release, refused), encoding="utf-8")
    DATA.write_text(data(results, refused), encoding="utf-8")
