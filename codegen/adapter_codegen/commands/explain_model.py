"""``adapter-codegen explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from adapter_codegen.commands import options
from adapter_codegen.commands.exit_codes import ExitCode
from adapter_codegen.commands.show.console import Console

if TYPE_CHECKING:
    from adapter_codegen.inspect.explain.outline import Emitted
    from adapter_codegen.model import PlanResult
    from adapter_codegen.upstream import Release


@click.command("explain", short_help="Show the plan for a model: sites, roles, methods.")
@click.argument("model_type")
@options.shown_as("text", "json", "html")
@options.without_verdicts
@options.from_release
@options.talking
def explain(
    console: Console, model_type: str, shown_as: str, without_verdicts: bool, release_spec: str | None
) -> None:
    """Show the plan for MODEL_TYPE: classes, sites, roles and methods, upstream's lines beside the emitted ones.

    The page of --format html goes to stdout and needs no other file.
    """
    from adapter_codegen.commands.writing import tell_whose_verdicts
    from adapter_codegen.model import Refusal
    from adapter_codegen.plan import plan_model
    from adapter_codegen.plan.told.verdicts import NO_VERDICTS
    from adapter_codegen.upstream import open_release

    release = open_release(release_spec)
    tell_whose_verdicts(console, release)
    result = plan_model(release, model_type, verdicts=NO_VERDICTS if without_verdicts else None)
    _show(console, release, result, _emitted(release, result), shown_as)
    if isinstance(result, Refusal):
        raise click.exceptions.Exit(ExitCode.DRIFT)


def _emitted(release: Release, result: PlanResult) -> Emitted:
    """What each site becomes, from the file that add-model would write."""
    from adapter_codegen.emit.formatting import formatted
    from adapter_codegen.inspect.explain.emitted import emitted_lines
    from adapter_codegen.model import Refusal
    from adapter_codegen.parse import parse_module
    from adapter_codegen.rewrite import rewrite_module

    if isinstance(result, Refusal) or not result.classes:
        return {}
    body = rewrite_module(parse_module(release.read(result.path), result.path), result)
    return emitted_lines(result, formatted("modeling.py", body))


def _show(console: Console, release: Release, result: PlanResult, emitted: Emitted, shown_as: str) -> None:
    import json

    from adapter_codegen.commands.writing import release_sources
    from adapter_codegen.inspect.explain.outline import outline, record

    if shown_as == "json":
        console.result(json.dumps(record(result, emitted), indent=2, ensure_ascii=False))
        return
    root = outline(result, emitted, release_sources(release))
    if shown_as == "html":
        from adapter_codegen.inspect.explain.html import page

        console.result(page(root).rstrip("\n"))
    else:
        from adapter_codegen.inspect.explain.text import tree

        console.show(tree(root))
