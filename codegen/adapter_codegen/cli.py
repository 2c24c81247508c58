"""The command line. One command per file in ``commands/``; this file only gathers them and ends a run.

Nothing at the top of this file or of a command's file imports more than click, so that ``--help`` is there at once.
Where do I add a command? A file in ``commands/`` and its line in `COMMANDS`.
"""

from __future__ import annotations

import errno

import click

from adapter_codegen.commands.add_model import add_model
from adapter_codegen.commands.check_tree import check
from adapter_codegen.commands.coverage_table import coverage
from adapter_codegen.commands.exit_codes import ExitCode
from adapter_codegen.commands.explain_model import explain
from adapter_codegen.commands.list_models import list_models
from adapter_codegen.commands.remove_model import remove_model
from adapter_codegen.commands.show.console import Console, Verbosity
from adapter_codegen.diagnostics.errors import CodegenError

COMMANDS = (add_model, remove_model, list_models, explain, check, coverage)

EXIT_CODES = "Exit codes: 0 done and in step; 1 the tree has drifted, or a model was refused; 2 wrong usage or an \
internal error; 3 a newer transformers no longer matches."


class Commands(click.Group):
    """A group that keeps the commands in our order and turns whatever ends a run into words and an exit code."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, context: click.Context) -> object:
        console = context.ensure_object(Console)
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except CodegenError as error:
            _complain(console, error)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of our output went away; click ends quietly
            _ask_for_a_report(console, error)
        raise click.exceptions.Exit(ExitCode.ERROR)


def _complain(console: Console, error: CodegenError) -> None:
    from adapter_codegen.diagnostics import report

    for diagnostic in report.collect(error.diagnostics):
        console.complain(report.text(diagnostic))


def _ask_for_a_report(console: Console, error: Exception) -> None:
    """An error that nobody foresaw is ours, not the user's."""
    from rich.text import Text

    message = Text.assemble(("internal error", "bold red"), f": {type(error).__name__}: {error}\n")
    if console.verbosity is Verbosity.VERBOSE:
        from rich.traceback import Traceback

        console.complain(Traceback.from_exception(type(error), error, error.__traceback__))
        message.append("This is a bug in adapter-codegen. Please report it with the traceback above.")
    else:
        message.append("This is a bug in adapter-codegen. Please report it, with the traceback that --verbose shows.")
    console.complain(message)


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="adapter-codegen")
def cli() -> None:
    """Write adapter-enabled versions of Hugging Face transformers models, from upstream's own modeling files.

    Start with `adapter-codegen explain MODEL_TYPE` to see what would be written, and why.
    """


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """The console script."""
    cli(prog_name="adapter-codegen")
