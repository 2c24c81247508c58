"""Where words go: results to stdout, everything that accompanies them to stderr.

On a terminal both are rich consoles: colours (unless NO_COLOR is set), progress bars, tables as wide as the window.
Piped, the same calls write plain lines: no colours, no bars, nothing wrapped, no trailing blanks. rich is imported
when the first word is written, so that ``--help`` does not pay for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType
    from rich.table import Column

UNWRAPPED = 100_000  # columns: wide enough that rich never wraps a line of a pipe
PLAIN_STEPS = 10  # lines that a whole progress leaves behind in a pipe
PLAIN_FROM = 2 * PLAIN_STEPS  # items; less than that needs no progress in a pipe

Advance = Callable[[str], None]  # called once per finished item with its name


class Verbosity(IntEnum):
    """QUIET: results, errors and warnings only. VERBOSE: also notes, and tracebacks of our own errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


@dataclass
class Console:
    """The two streams of one command."""

    verbosity: Verbosity = Verbosity.NORMAL

    @cached_property
    def out(self) -> RichConsole:
        return _rich_console(sys.stdout)

    @cached_property
    def err(self) -> RichConsole:
        return _rich_console(sys.stderr)

    def result(self, text: str) -> None:
        """Write a line of the result as it is: no markup, no wrapping, no colours. For machines and for text."""
        click.echo(text)

    def show(self, renderable: RenderableType) -> None:
        """Write a table, a tree or styled text as (a part of) the result."""
        _print(self.out, renderable)

    def say(self, renderable: RenderableType) -> None:
        """Tell what goes on; silenced by --quiet."""
        if self.verbosity > Verbosity.QUIET:
            self.complain(renderable)

    def detail(self, renderable: RenderableType) -> None:
        """Tell what only --verbose asks for."""
        if self.verbosity is Verbosity.VERBOSE:
            self.complain(renderable)

    def complain(self, renderable: RenderableType) -> None:
        """Tell what must be heard: diagnostics. Not silenced."""
        _print(self.err, renderable)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        """Show how far ``total`` items are; the body calls what it is given once per finished item."""
        if self.verbosity is Verbosity.QUIET or total == 0:
            yield lambda name: None
        elif self.err.is_terminal:
            with _bar(self.err, description, total) as advance:
                yield advance
        elif total < PLAIN_FROM:
            yield lambda name: None
        else:
            yield _counter(self.err, description, total)


def _rich_console(stream: TextIO) -> RichConsole:
    from rich.console import Console as RichConsole

    console = RichConsole(file=stream, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = UNWRAPPED
    return console


def _print(console: RichConsole, renderable: RenderableType) -> None:
    """Print without the blanks that rich pads lines of tables and trees with."""
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    click.echo("\n".join(line.rstrip() for line in capture.get().split("\n")), nl=False, file=console.file)


@contextmanager
def _bar(console: RichConsole, description: str, total: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[item]}", table_column=_fixed_column(24)),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task(description, total=total, item="")
        yield lambda name: progress.update(task, advance=1, item=name)


def _fixed_column(width: int) -> Column:
    from rich.table import Column

    return Column(width=width, no_wrap=True, overflow="ellipsis")


def _counter(console: RichConsole, description: str, total: int) -> Advance:
    """Progress for a pipe: a line whenever another tenth is done."""
    done = 0

    def advance(name: str) -> None:
        nonlocal done
        done += 1
        if done * PLAIN_STEPS // total > (done - 1) * PLAIN_STEPS // total:
            _print(console, f"{description}: {done} of {total}")

    return advance
