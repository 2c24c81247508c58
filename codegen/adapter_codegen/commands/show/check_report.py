"""How ``adapter-codegen check`` says what it found: to people, to programs, to GitHub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping

from rich.text import Text

from adapter_codegen.commands.show.console import Console
from adapter_codegen.commands.show.diffs import show_diff
from adapter_codegen.commands.writing import by_a_bug, release_sources
from adapter_codegen.diagnostics import report
from adapter_codegen.inspect.check import Change, CheckReport, Drift, Kind
from adapter_codegen.upstream import Release

STYLES = {Kind.STALE: "yellow", Kind.MISSING: "red", Kind.ORPHAN: "yellow", Kind.HAND_EDITED: "bold red"}
MEANING = {
    Kind.STALE: "no longer what adapter-codegen writes: upstream, a template or the tool has changed since",
    Kind.MISSING: "adapter-codegen wrote it, or would write it, and it is not there",
    Kind.ORPHAN: "belongs to no generated model; delete it",
    Kind.HAND_EDITED: "edited by hand; change the template, the rule or overrides.toml that it comes from",
}
CHANGES = {
    Change.COSMETIC: "changed in comments, annotations or layout only",
    Change.SEMANTIC: "changed in what it does",
}


def show_text(console: Console, found: CheckReport, release: Release, diff: bool) -> None:
    for finding in found.findings:
        console.show(Text.assemble((f"{finding.kind.value:12}", STYLES[finding.kind]), finding.path))
        if diff and finding.diff:
            show_diff(console, finding.diff)
    for drift in found.drifts:
        console.show(Text.assemble(("upstream    ", "cyan"), _drifted(drift)))
    for refusal in found.refusals:
        console.show(
            Text.assemble(("refused     ", "bold red"), f"{refusal.model_type} by transformers {release.version}")
        )
        for diagnostic in report.collect(refusal.diagnostics):
            console.show(report.text(diagnostic, release_sources(release)))
    console.say(_conclusion(found))


def _about_refusals(found: CheckReport) -> str:
    names = ", ".join(refusal.model_type for refusal in found.refusals)
    if by_bugs(found):
        return f"refused: {names}. adapter-codegen failed; please report what stands above."
    return (
        f"refused: {names}. Follow the help above, keep transformers {found.generated_from}, or give a model up:"
        " adapter-codegen remove-model."
    )


def by_bugs(found: CheckReport) -> bool:
    """Whether the tool failed at a model, and not upstream's text."""
    return any(map(by_a_bug, found.refusals))


def _drifted(drift: Drift) -> str:
    """What became of one model's file, and what that means for its methods."""
    methods = "".join(
        f"; {verb} {', '.join(names)}" for verb, names in (("loses", drift.lost), ("gains", drift.gained)) if names
    )
    return f"{drift.model_type}: {drift.path} {CHANGES[drift.change]}{methods}"


def _conclusion(found: CheckReport) -> Text:
    """One line with the counts, what the kinds mean, and the command that mends it."""
    if found.in_step:
        return Text(f"In step with transformers {found.compared_with}.", "green")
    result = Text(f"\nNot in step with transformers {found.compared_with}: {_counts(found)}.", "bold")
    if found.other_release:
        result.append(Text(f"\n{_release(found)}", "not bold"))
    for kind in Kind:
        if any(finding.kind is kind for finding in found.findings):
            result.append(Text(f"\n{kind.value}: {MEANING[kind]}.", "not bold"))
    if found.refusals:
        result.append(Text(f"\n{_about_refusals(found)}", "not bold"))
    if found.command:
        result.append(Text.assemble(("\nTo mend it: ", "not bold"), (found.command, "bold green")))
    return result


def _release(found: CheckReport) -> str:
    """What changed between the two releases, over all models."""
    changes = Counter(drift.change for drift in found.drifts)
    counted = ((change, changes[change]) for change in Change if changes[change])
    drifted = ", ".join(f"{report.plural(count, 'model')} {CHANGES[change]}" for change, count in counted)
    drifted = drifted or "no model's file changed"
    return f"Generated from transformers {found.generated_from}, and since: {drifted}."


def _counts(found: CheckReport) -> str:
    counts = Counter(finding.kind for finding in found.findings)
    parts = [f"{counts[kind]} {kind.value}" for kind in Kind if counts[kind]]
    if found.refusals:
        parts.append(report.plural(len(found.refusals), "model") + " refused")
    return ", ".join(parts)


def show_json(console: Console, found: CheckReport, release: Release, diff: bool) -> None:
    """One document; its keys are only ever added to."""
    document = {
        "in_step": found.in_step,
        "generated_from": found.generated_from,
        "compared_with": found.compared_with,
        "findings": [
            {"kind": entry.kind.value, "path": entry.path, **({"diff": entry.diff} if diff else {})}
            for entry in found.findings
        ],
        "drifts": [
            {
                "model_type": entry.model_type,
                "path": entry.path,
                "change": entry.change.value,
                "lost": list(entry.lost),
                "gained": list(entry.gained),
            }
            for entry in found.drifts
        ],
        "refusals": [
            {
                "model_type": entry.model_type,
                "diagnostics": [report.record(diagnostic) for diagnostic in report.collect(entry.diagnostics)],
            }
            for entry in found.refusals
        ],
        "command": found.command,
    }
    console.result(json.dumps(document, indent=2, ensure_ascii=False))


def show_github(console: Console, found: CheckReport, release: Release, diff: bool) -> None:
    """An annotation per file, with the diff inside where it was asked for."""
    for finding in found.findings:
        lines = [f"{finding.path} is {finding.kind.value}: {MEANING[finding.kind]}."]
        if found.command and finding.kind is not Kind.ORPHAN:
            lines.append(f"To mend it: {found.command}")
        if diff and finding.diff:
            lines.append(finding.diff.rstrip("\n"))
        place: dict[str, object] = {"file": finding.path, "line": 1} if finding.kind is not Kind.MISSING else {}
        title = f"adapter-codegen: {finding.kind.value}"
        console.result(report.github_command("error", "\n".join(lines), **place, title=title))
    for drift in found.drifts:
        title = f"adapter-codegen: upstream of {drift.model_type}"
        console.result(report.github_command("notice", f"{_drifted(drift)}.", title=title))
    for refusal in found.refusals:
        for diagnostic in report.collect(refusal.diagnostics):
            console.result(report.github(diagnostic))


SHOW: Mapping[str, Callable[[Console, CheckReport, Release, bool], None]] = {
    "text": show_text,
    "json": show_json,
    "github": show_github,
}
