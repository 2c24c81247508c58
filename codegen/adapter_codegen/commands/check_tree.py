"""``adapter-codegen check``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.exit_codes import ExitCode
from adapter_codegen.commands.show.console import Console
from adapter_codegen.diagnostics.faults import is_bug

if TYPE_CHECKING:
    from adapter_codegen.inspect.check import CheckReport


@click.command("check", short_help="Is the tree what would be generated?")
@options.output_format("text", "json", "github")
@click.option("--diff", is_flag=True, help="Print what differs as a unified diff.")
@options.from_release
@options.writing
@options.talking
def check(
    console: Console,
    output_format: str,
    diff: bool,
    release_spec: str | None,
    root: Path | None,
    output: Path | None,
) -> None:
    """Generate everything again, in memory, and compare: stale, missing, orphan and hand-edited files. Writes nothing.

    \b
    Exit codes:
      0  in step
      1  drift, or a model that this version of adapter-codegen refuses
      2  wrong usage, or an internal error
      3  a newer transformers no longer matches: it would have a generated model refused
    """
    from adapter_codegen.commands.show.check_report import SHOW
    from adapter_codegen.emit.layout import find_target
    from adapter_codegen.emit.manifest import load
    from adapter_codegen.inspect.check import check as check_tree
    from adapter_codegen.upstream import open_release

    target = find_target(root, output)
    release = open_release(release_spec)
    total = len(load(target.root, target.layout.manifest).models)
    with console.progress("Checking", total) as advance:
        report = replace(check_tree(target, release, progress=advance), release_spec=release_spec or "")
    SHOW[output_format](console, report, release, diff)
    raise click.exceptions.Exit(exit_code(report))


def exit_code(report: CheckReport) -> ExitCode:
    """Of the worst finding: a bug of the tool, which can then tell nothing about upstream; a refusal; drift."""
    if any(is_bug(diagnostic) for refusal in report.refusals for diagnostic in refusal.diagnostics):
        return ExitCode.ERROR
    if report.refusals and report.other_release:
        return ExitCode.UPSTREAM
    return ExitCode.OK if report.in_step else ExitCode.DRIFT
