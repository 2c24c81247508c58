"""Tables of methods, as `list` and `coverage` show them: one narrow column per method."""

from __future__ import annotations

from collections.abc import Container, Mapping

from rich.table import Table
from rich.text import Text

from adapter_codegen.emit.parts import PartRow
from adapter_codegen.model import Method

HEADINGS = {
    Method.BOTTLENECK: "bottl.",
    Method.PREFIX_TUNING: "prefix",
    Method.LORA: "lora",
    Method.REFT: "reft",
    Method.PROMPT_TUNING: "prompt",
    Method.INVERTIBLE: "invert.",
}


def method_table(first: str, *more: str, last: str = "") -> Table:
    """An empty table: names, columns of numbers or words, a column per method, and a column of sentences."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True, overflow="ellipsis", min_width=20)
    for heading in more:
        table.add_column(heading, justify="right", no_wrap=True, min_width=len(heading))
    for heading in HEADINGS.values():
        table.add_column(heading, justify="center", no_wrap=True, min_width=len(heading))
    if last:
        table.add_column(last, no_wrap=True, overflow="ellipsis", ratio=1)
    return table


def complete_of(stacks: Mapping[str, str]) -> str:
    """``2/3``: how many of the known stacks are complete; "" where none is known."""
    return f"{sum(not reason for reason in stacks.values())}/{len(stacks)}" if stacks else ""


def marks(supported: Container[Method], is_open: Container[Method] = ()) -> list[Text]:
    """A tick or a dot per method, in the order of the columns; a question mark where the models inside decide."""
    return [
        Text("?", "dim") if method in is_open else Text("✓", "green") if method in supported else Text("·", "dim")
        for method in HEADINGS
    ]


def marks_of_part(part: PartRow) -> list[Text]:
    """The same for a part; question marks where the model at its place is not known."""
    if part.is_open:
        return marks((), is_open=HEADINGS)
    return marks([method for method in HEADINGS if part.supports(method)])
