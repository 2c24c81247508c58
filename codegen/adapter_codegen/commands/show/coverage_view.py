"""How ``adapter-codegen coverage`` looks: rows and totals as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from rich.text import Text

from adapter_codegen.commands.show.console import Console
from adapter_codegen.commands.show.tables import marks, method_table
from adapter_codegen.diagnostics import report as diagnostics
from adapter_codegen.inspect.coverage import CoverageReport, ModuleRow
from adapter_codegen.model import Method

WIDE = 110  # columns of a terminal: with less there is no room for the reasons


def totals(report: CoverageReport) -> list[tuple[str, int]]:
    """What is counted, in how many modules."""
    return [
        ("modules", len(report.rows)),
        ("planned: cores and residual sites, rewritten, parses", report.planned),
        ("with attention cores", report.with_cores),
        ("with residual sites", report.with_residuals),
        *((method.value, report.supporting(method)) for method in Method),
    ]


def show_text(console: Console, report: CoverageReport) -> None:
    with_reasons = console.out.width >= WIDE
    table = method_table("module", "cores", "sites", last="why not" if with_reasons else "")
    for row in report.rows:
        supported = [method for method in Method if row.supports(method)]
        style = "" if row.planned else "yellow"
        reason = (row.reason,) if with_reasons else ()
        table.add_row(Text(row.name, style), str(row.cores), str(row.residuals), *marks(supported), *reason)
    console.show(table)
    if not with_reasons:
        console.say(f"Why not: `adapter-codegen explain MODEL_TYPE`, a terminal of {WIDE} columns, or --format json.")
    console.show(Text(f"\ntransformers {report.version}", "bold"))
    for label, count in totals(report):
        console.show(Text(f"{count:6,}  {label}"))
    if report.obstacles():
        found = ", ".join(f"{code} in {count}" for code, count in report.obstacles())
        console.say(Text(f"\nErrors and warnings, in modules: {found}"))


def show_markdown(console: Console, report: CoverageReport) -> None:
    """Tables for a page or a pull request."""
    lines = [f"# Coverage of transformers {report.version}", "", "| modules | |", "|---:|---|"]
    lines += [f"| {count} | {label} |" for label, count in totals(report)]
    headings = ["module", "cores", "sites", *(method.value for method in Method), "why not"]
    lines += ["", f"| {' | '.join(headings)} |", f"|---|---:|---:|{':-:|' * len(Method)}---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.rows]
    console.result("\n".join(lines))


def _cells(row: ModuleRow) -> list[str]:
    ticks = ["✓" if row.supports(method) else "" for method in Method]
    return [row.name.replace("|", "\\|"), str(row.cores), str(row.residuals), *ticks, row.reason.replace("|", "\\|")]


def show_json(console: Console, report: CoverageReport) -> None:
    """One document; its keys are only ever added to."""
    document = {
        "transformers": report.version,
        "totals": {
            "modules": len(report.rows),
            "planned": report.planned,
            "with_cores": report.with_cores,
            "with_residuals": report.with_residuals,
            "methods": {method.value: report.supporting(method) for method in Method},
            "obstacles": dict(report.obstacles()),
        },
        "modules": [_record(row) for row in report.rows],
    }
    console.result(json.dumps(document, indent=2, ensure_ascii=False))


def _record(row: ModuleRow) -> dict[str, object]:
    return {
        "path": row.path,
        "model_types": list(row.model_types),
        "cores": row.cores,
        "residuals": row.residuals,
        "planned": row.planned,
        "methods": {
            entry.method.value: {"supported": entry.supported, "reason": entry.reason} for entry in row.methods
        },
        "diagnostics": [diagnostics.record(entry) for entry in row.diagnostics],
    }


SHOW: Mapping[str, Callable[[Console, CoverageReport], None]] = {
    "text": show_text,
    "json": show_json,
    "markdown": show_markdown,
}
