"""How ``adapter-codegen coverage`` looks: rows and totals as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from rich.text import Text

from adapter_codegen.commands.show.console import Console
from adapter_codegen.commands.show.tables import complete_of, marks, method_table
from adapter_codegen.diagnostics import report as diagnostics
from adapter_codegen.inspect.coverage import CoverageReport, ModuleRow
from adapter_codegen.inspect.standing import Standing, TypeRow
from adapter_codegen.model import Method

WIDE = 110  # columns of a terminal: with less there is no room for the reasons


def totals(report: CoverageReport) -> list[tuple[str, int]]:
    """What is counted, and how often it is there."""
    return [
        ("model types", len(report.types)),
        *((standing.value, report.standing(standing)) for standing in Standing),
        ("stacks of layers in planned ones", report.stacks),
        ("of them complete: each layer has its sites, or no place for one", report.complete_stacks),
    ]


def methods(report: CoverageReport) -> list[tuple[str, int, int]]:
    """For each method, the model types that have it, and those of them whose every stack is complete."""
    return [
        (method.value, report.types_supporting(method), report.types_supporting(method, only_complete=True))
        for method in Method
    ]


def _stacks(row: TypeRow) -> str:
    return complete_of(row.stacks) if row.planned else ""


def show_text(console: Console, report: CoverageReport) -> None:
    with_reasons = console.out.width >= WIDE
    table = method_table("model type", "stacks", last="why not" if with_reasons else "")
    table.expand = with_reasons and console.out.is_terminal  # else what a long reason needs is taken from all columns
    for row in report.types:
        supported = [method for method in Method if row.supports(method)]
        reason = (row.reason,) if with_reasons else ()
        table.add_row(Text(row.model_type, "" if row.planned else "yellow"), _stacks(row), *marks(supported), *reason)
    console.show(table)
    if not with_reasons:
        console.say(f"Why not: `adapter-codegen explain MODEL_TYPE`, a terminal of {WIDE} columns, or --format json.")
    console.show(Text(f"\ntransformers {report.version}", "bold"))
    for label, count in totals(report):
        console.show(Text(f"{count:6,}  {label}"))
    for name, count, complete in methods(report):
        console.show(Text(f"{count:6,}  {name}, in {complete:,} of them with every stack complete"))
    if report.obstacles():
        found = ", ".join(f"{code} in {count}" for code, count in report.obstacles())
        console.say(Text(f"\nErrors and warnings, in modules: {found}"))


def show_markdown(console: Console, report: CoverageReport) -> None:
    """Tables for a page or a pull request."""
    lines = [f"# Coverage of transformers {report.version}", "", "| | |", "|---:|---|"]
    lines += [f"| {count} | {label} |" for label, count in totals(report)]
    lines += ["", "| method | model types | every stack complete |", "|---|---:|---:|"]
    lines += [f"| {name} | {count} | {complete} |" for name, count, complete in methods(report)]
    headings = ["model type", "stacks", *(method.value for method in Method), "why not"]
    lines += ["", f"| {' | '.join(headings)} |", f"|---|---:|{':-:|' * len(Method)}---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in report.types]
    console.result("\n".join(lines))


def _cells(row: TypeRow) -> list[str]:
    ticks = ["✓" if row.supports(method) else "" for method in Method]
    return [row.model_type.replace("|", "\\|"), _stacks(row), *ticks, row.reason.replace("|", "\\|")]


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
            "model_types": {
                "all": len(report.types),
                **{standing.value: report.standing(standing) for standing in Standing},
                "methods": {name: {"any": count, "complete": complete} for name, count, complete in methods(report)},
            },
            "stacks": {"all": report.stacks, "complete": report.complete_stacks},
        },
        "model_types": [_type_record(row) for row in report.types],
        "modules": [_record(row) for row in report.rows],
    }
    console.result(json.dumps(document, indent=2, ensure_ascii=False))


def _type_record(row: TypeRow) -> dict[str, object]:
    return {
        "model_type": row.model_type,
        "path": row.path,
        "standing": row.standing.value,
        "methods": [method.value for method in Method if row.supports(method)],
        "stacks": [{"path": path, "complete": not why, "reason": why} for path, why in row.stacks.items()],
        "reason": row.reason,
    }


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
