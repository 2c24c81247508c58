"""How ``adapter-codegen list`` looks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from adapter_codegen.commands.show.console import Console
from adapter_codegen.commands.show.tables import complete_of, marks, marks_of_part, method_table
from adapter_codegen.diagnostics.report import plural
from adapter_codegen.emit.parts import PartRow
from adapter_codegen.inspect.listing import Entry, Status
from adapter_codegen.model import Method

WIDE = 90  # columns of a terminal: with less, the columns of the table stand closer together
STYLES = {Status.SUPPORTED: "bold green", Status.GONE: "red", Status.AVAILABLE: "", Status.REFUSED: "yellow"}


def show_text(console: Console, entries: Sequence[Entry], version: str) -> None:
    """What is planned with its methods, what is refused with its reason, the rest by name."""
    groups = {status: [entry for entry in entries if entry.status is status] for status in Status}
    planned = [*groups[Status.SUPPORTED], *groups[Status.GONE], *groups[Status.AVAILABLE]]
    if planned:
        console.show(_planned(planned, narrow=console.out.width < WIDE))
    if groups[Status.REFUSED]:
        console.show(_refused(groups[Status.REFUSED]))
    if groups[Status.KNOWN]:
        _show_known(console, groups[Status.KNOWN])
    counts = ", ".join(f"{len(found)} {status.value}" for status, found in groups.items() if found)
    console.say(f"\n{plural(len(entries), 'model type')}{f': {counts}' if counts else ''} (transformers {version}).")
    if groups[Status.KNOWN]:
        console.say("Known ones were not planned: `adapter-codegen explain MODEL_TYPE` plans one, --plan all of them.")


def _planned(entries: Sequence[Entry], narrow: bool) -> Table:
    table = method_table("model type", "status", "stacks")
    if narrow:
        table.padding = (0, 1, 0, 0)
    for entry in entries:
        status = Text(entry.status.value, STYLES[entry.status])
        table.add_row(entry.model_type, status, complete_of(entry.stacks), *marks(entry.methods, entry.left_to_parts))
        for part in entry.parts:
            table.add_row(f"  {part.path}", part.model_type or "", "", *marks_of_part(part))
    return table


def _refused(entries: Sequence[Entry]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("model type", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("why", overflow="fold")
    for entry in entries:
        table.add_row(entry.model_type, Text(entry.status.value, STYLES[entry.status]), entry.reason)
    return table


def _show_known(console: Console, entries: Sequence[Entry]) -> None:
    """Side by side on a terminal; in a pipe a line each, for grep."""
    if console.out.is_terminal:
        console.show(Text("\nknown", "bold"))
        console.show(Columns([entry.model_type for entry in entries], padding=(0, 2), column_first=True))
        return
    width = max(len(entry.model_type) for entry in entries)
    for entry in entries:
        console.result(f"{entry.model_type:{width}}  {entry.status.value}")


def show_json(console: Console, entries: Sequence[Entry], version: str) -> None:
    """One document; its keys are only ever added to."""
    listed = [
        {
            "model_type": entry.model_type,
            "status": entry.status.value,
            "methods": [method.value for method in entry.methods],
            "left_to_parts": [method.value for method in entry.methods if method in entry.left_to_parts],
            "reason": entry.reason,
            "parts": [_part(part) for part in entry.parts],
            "stacks": [{"path": path, "complete": not why, "reason": why} for path, why in entry.stacks.items()],
        }
        for entry in entries
    ]
    console.result(json.dumps({"transformers": version, "models": listed}, indent=2, ensure_ascii=False))


def _part(part: PartRow) -> dict[str, object]:
    """``class`` is null where it is known when a model is built, ``methods`` then too; ``usual_type`` is what stands there by default."""
    methods = None if part.is_open else [method.value for method in Method if part.supports(method)]
    return {
        "path": part.path,
        "class": part.class_name or None,
        "model_type": part.model_type or None,
        "usual_type": part.usual_type or None,
        "methods": methods,
    }


SHOW: Mapping[str, Callable[[Console, Sequence[Entry], str], None]] = {"text": show_text, "json": show_json}
