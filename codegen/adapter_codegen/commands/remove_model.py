"""``adapter-codegen remove-model``."""

from __future__ import annotations

from pathlib import Path

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.show.console import Console


@click.command("remove-model", short_help="Delete what was generated for models.")
@options.model_types(required=True)
@options.previewing
@click.option("--overwrite", is_flag=True, help="Delete and write over files that were edited by hand.")
@options.writing
@options.talking
def remove_model(
    console: Console,
    model_types: tuple[str, ...],
    dry_run: bool,
    diff: bool,
    overwrite: bool,
    root: Path | None,
    output: Path | None,
) -> None:
    """Delete everything that was generated for each MODEL_TYPE, and take it out of registries, tests and docs."""
    from adapter_codegen.commands.writing import write
    from adapter_codegen.emit.layout import find_target
    from adapter_codegen.generate import remove_models

    target = find_target(root, output)
    write(console, remove_models(model_types, target), target, dry_run=dry_run, diff=diff, overwrite=overwrite)
