"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
from click.decorators import FC as Command  # a type variable: a function that becomes a command, or the command

from adapter_codegen.commands.show.console import Console, Verbosity


def _set_verbosity(verbosity: Verbosity) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given:
            context.ensure_object(Console).verbosity = verbosity

    return callback


def talking(command: Command) -> Command:
    """``--quiet`` and ``--verbose``; the command receives the `Console` as its first argument."""
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_set_verbosity(Verbosity.QUIET),
        help="Print results, errors and warnings only.",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set_verbosity(Verbosity.VERBOSE),
        help="Print notes and tracebacks too.",
    )
    return quiet(verbose(click.pass_obj(command)))  # type: ignore[return-value]  # it takes one argument less


from_release = click.option(
    "--from",
    "release_spec",
    metavar="RELEASE",
    help="The transformers to read: a directory, a wheel, or a version such as transformers==5.23.0, fetched with "
    "pip into your cache folder. Default: the installed one.",
)

without_verdicts = click.option(
    "--without-verdicts",
    is_flag=True,
    help="Leave out what the conformance checks found (plan/verdicts.json): for the run of the checks that writes it.",
)

jobs = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Processes to plan in. Default: one per processor.",
)


def output_format(*formats: str) -> Callable[[Command], Command]:
    """``--output-format`` of commands that report."""
    return click.option(
        "--output-format",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to report." + (" github writes workflow annotations." if "github" in formats else ""),
    )


def model_types(required: bool) -> Callable[[Command], Command]:
    """One or more model types as upstream writes them."""
    return click.argument("model_types", nargs=-1, required=required, metavar="MODEL_TYPE...")


def writing(command: Command) -> Command:
    """``--root`` and ``--output``: where the tree is."""
    folder = click.Path(file_okay=False, path_type=Path)
    root = click.option(
        "--root", type=folder, help="The checkout to work in. Default: the one that the current folder belongs to."
    )
    output = click.option("--output", type=folder, help="A package of your own to work in, instead of a checkout.")
    return root(output(command))


def previewing(command: Command) -> Command:
    """``--dry-run`` and ``--diff``: look, and write nothing."""
    dry_run = click.option("--dry-run", is_flag=True, help="Say which files would change; write nothing.")
    diff = click.option("--diff", is_flag=True, help="Print the changes as a unified diff; write nothing.")
    return dry_run(diff(command))


def shown_as(*formats: str) -> Callable[[Command], Command]:
    """``--format`` of commands whose result is a document."""
    return click.option(
        "--format",
        "shown_as",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to show it.",
    )


filtered = click.option(
    "--filter", "pattern", metavar="PATTERN", default="*", help="Only names like this: 'xlm*', '*moe*'."
)


def require_match(found: Sequence[object], pattern: str) -> None:
    """Raises `click.BadParameter` where ``--filter`` let nothing through: that is a misspelt pattern."""
    if not found:
        raise click.BadParameter(f"nothing is named like {pattern!r}.", param_hint="--filter")
