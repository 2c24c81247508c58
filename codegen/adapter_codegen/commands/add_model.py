"""``adapter-codegen add-model``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.exit_codes import ExitCode
from adapter_codegen.commands.show.console import Console

if TYPE_CHECKING:
    from adapter_codegen.emit.layout import Target
    from adapter_codegen.model import Diagnostic
    from adapter_codegen.parse import AutoMappings
    from adapter_codegen.upstream import Release


@click.command("add-model", short_help="Write the adapter-enabled version of models.", no_args_is_help=True)
@options.model_types(required=False)
@click.option("--existing", is_flag=True, help="Write again every model that is in the tree.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Add every model type of the release that can be planned and that the conformance checks could try.",
)
@options.without_verdicts
@options.previewing
@click.option("--overwrite", is_flag=True, help="Write over files that were edited by hand.")
@options.from_release
@options.writing
@options.talking
def add_model(
    console: Console,
    model_types: tuple[str, ...],
    existing: bool,
    everything: bool,
    without_verdicts: bool,
    dry_run: bool,
    diff: bool,
    overwrite: bool,
    release_spec: str | None,
    root: Path | None,
    output: Path | None,
) -> None:
    """Write the adapter-enabled version of each MODEL_TYPE (llama, xlm-roberta): code, registries, tests and docs.

    A model that is not understood is refused with its reasons, and keeps what the tree has of it.
    """
    from adapter_codegen.commands.writing import by_a_bug, refused, show_plans, tell_whose_verdicts, write
    from adapter_codegen.emit.layout import find_target
    from adapter_codegen.generate import add_models, outdated
    from adapter_codegen.upstream import open_release

    target, verdicts = find_target(root, output), not without_verdicts
    release = open_release(release_spec)
    tell_whose_verdicts(console, release)
    names = _names(release, target, model_types, existing, everything)
    if verdicts and everything:
        names = _tried(console, release, names, model_types)
    again = sorted(outdated(release, target, verdicts) - set(names))
    if again:
        console.say(f"transformers or adapter-codegen has changed since; written again: {', '.join(again)}.")
    with console.progress("Generating", len(names) + len(again)) as advance:
        generated = add_models(release, names, target, progress=advance, verdicts=verdicts)
    refused(console, generated, release, briefly=everything)
    show_plans(console, [plan for plan in generated.plans if plan.model_type in names], release)
    write(console, generated, target, dry_run=dry_run, diff=diff, overwrite=overwrite)
    if any(not everything or by_a_bug(refusal) for refusal in generated.refusals):
        raise click.exceptions.Exit(ExitCode.DRIFT)


def _names(
    release: Release, target: Target, named: tuple[str, ...], existing: bool, everything: bool
) -> tuple[str, ...]:
    """The model types to generate, in the order of the alphabet."""
    from adapter_codegen.emit.manifest import load
    from adapter_codegen.parse import read_auto_mappings

    if not named and not existing and not everything:
        raise click.UsageError("Name a model type, or give --existing or --all.")
    mappings = read_auto_mappings(release)
    _refuse_unknown(mappings, named)
    chosen = set(named)
    if existing:
        chosen |= set(load(target.root, target.layout.manifest).models)
    if everything:
        chosen |= set(mappings.model_types)
    return tuple(sorted(chosen))


def _tried(console: Console, release: Release, names: tuple[str, ...], named: tuple[str, ...]) -> tuple[str, ...]:
    """Without those that nobody asked for by name and that no conformance check could try."""
    from adapter_codegen.diagnostics.report import plural
    from adapter_codegen.plan.told.verdicts import own_verdicts

    left_out = {*names} & {*own_verdicts().of(release.version).untested} - {*named}
    if left_out:
        console.say(f"{plural(len(left_out), 'model type')} left out, which no conformance check could try.")
    return tuple(name for name in names if name not in left_out)


def _refuse_unknown(mappings: AutoMappings, named: tuple[str, ...]) -> None:
    """All misspelt names at once, before any work is done."""
    from adapter_codegen.diagnostics.errors import CodegenError

    found: list[Diagnostic] = []
    for name in named:
        try:
            mappings.entry(name)
        except CodegenError as error:
            found += error.diagnostics
    if found:
        raise CodegenError(*found)
