"""``adapter-codegen check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.exit_codes import ExitCode
from adapter_codegen.console import Console

if TYPE_CHECKING:
    from adapter_codegen.check import CheckReport


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
      1  drift
      2  wrong usage, or an internal error
      3  a newer transformers no longer matches: a generated model would be refused
    """
    from adapter_codegen.check import check as check_tree
    from adapter_codegen.commands.check_report import SHOW
    from adapter_codegen.commands.writing import result_name
    from adapter_codegen.layout import find_target
    from adapter_codegen.manifest import load
    from adapter_codegen.upstream import open_release

    target = find_target(root, output)
    release = open_release(release_spec)
    total = len(load(target.root, target.layout.manifest).models)
    with console.progress("Checking", total) as advance:
        report = check_tree(target, release, progress=lambda result: advance(result_name(result)))
    SHOW[output_format](console, report, release, diff)
    raise click.exceptions.Exit(exit_code(report))


def exit_code(report: CheckReport) -> ExitCode:
    """What the shell is told. A model that would be refused is worse than files to be written again."""
    if report.refusals:
        return ExitCode.UPSTREAM
    return ExitCode.OK if report.in_step else ExitCode.DRIFT
