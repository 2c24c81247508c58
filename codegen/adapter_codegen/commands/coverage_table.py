"""``adapter-codegen coverage``."""

from __future__ import annotations

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.show.console import Console


@click.command("coverage", short_help="Plan every model of transformers, with totals.")
@options.filtered
@options.shown_as("text", "json", "markdown")
@options.jobs
@options.from_release
@options.talking
def coverage(console: Console, pattern: str, shown_as: str, jobs: int | None, release_spec: str | None) -> None:
    """Plan every model type of transformers: which methods it has, how many of its stacks are complete, and why not."""
    from adapter_codegen.commands.show.coverage_view import SHOW
    from adapter_codegen.inspect.coverage import module_name, modules_like, survey
    from adapter_codegen.upstream import open_release

    release = open_release(release_spec)
    paths = modules_like(release, pattern)
    options.require_match(paths, pattern)
    with console.progress("Planning", len(paths)) as advance:
        report = survey(release, paths, jobs, advance=lambda path: advance(module_name(path)))
    SHOW[shown_as](console, report.like(pattern))
