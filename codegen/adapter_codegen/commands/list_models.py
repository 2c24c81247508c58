"""``adapter-codegen list``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.show.console import Console

if TYPE_CHECKING:
    from adapter_codegen.emit.manifest import Manifest


@click.command("list", short_help="Show what is supported, what could be, and why not.")
@click.option("--plan", "planned", is_flag=True, help="Plan every model type, to know which can be added and why not.")
@options.filtered
@options.shown_as("text", "json")
@options.jobs
@options.from_release
@options.writing
@options.talking
def list_models(
    console: Console,
    planned: bool,
    pattern: str,
    shown_as: str,
    jobs: int | None,
    release_spec: str | None,
    root: Path | None,
    output: Path | None,
) -> None:
    """Show which model types are supported, which could be added, and why not the rest.

    Below a model made of several stand its parts. "?" = the model at that place, known when one is built, decides. In the row of
    the whole: those that were tried there have no place for the method.

    Without --plan, model types that are not generated yet are listed by name only: nothing is known about them before
    they are planned.
    """
    from adapter_codegen.commands.show.list_view import SHOW
    from adapter_codegen.inspect.listing import listing, matching, plan_entries, unplanned
    from adapter_codegen.parse import read_auto_mappings
    from adapter_codegen.upstream import open_release

    release = open_release(release_spec)
    manifest = _manifest(root, output)
    entries = matching(listing(read_auto_mappings(release), manifest), pattern)
    options.require_match(entries, pattern)
    if planned:
        with console.progress("Planning", unplanned(entries)) as advance:
            entries = plan_entries(release, entries, manifest, jobs, advance)
    SHOW[shown_as](console, entries, release.version)


def _manifest(root: Path | None, output: Path | None) -> Manifest:
    """The manifest of the tree; outside of every tree nothing is supported, and the rest can still be listed."""
    from adapter_codegen.diagnostics.errors import CodegenError
    from adapter_codegen.emit.layout import find_target
    from adapter_codegen.emit.manifest import EMPTY, load

    try:
        target = find_target(root, output)
    except CodegenError:
        if root is not None:
            raise
        return EMPTY
    return load(target.root, target.layout.manifest)
