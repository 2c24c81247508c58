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
    """Plan every modeling module of transformers: which methods have their sites in each, and why not."""
    from fnmatch import fnmatchcase

    from adapter_codegen.commands.show.coverage_view import SHOW
    from adapter_codegen.inspect.coverage import module_name, survey
    from adapter_codegen.upstream import open_release

    release = open_release(release_spec)
    paths = [path for path in release.modeling_paths() if fnmatchcase(module_name(path), pattern)]
    options.require_match(paths, pattern)
    with console.progress("Planning", len(paths)) as advance:
        report = survey(release, paths, jobs, advance=lambda path: advance(module_name(path)))
    SHOW[shown_as](console, report)
