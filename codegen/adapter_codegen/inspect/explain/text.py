"""The outline of a plan as a rich tree: upstream's lines and what they become in the manner of a diff."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from adapter_codegen.inspect.explain.outline import Mark, Node

STYLES = {
    Mark.YES: "green",
    Mark.NO: "red",
    Mark.ERROR: "bold red",
    Mark.WARNING: "bold yellow",
    Mark.NOTE: "bold cyan",
}


def tree(root: Node) -> Tree:
    """The whole outline."""
    return _grown(root, Tree(_headline(root), guide_style="dim"))


def _grown(node: Node, branch: Tree) -> Tree:
    for child in node.children:
        _grown(child, branch.add(_label(child)))
    return branch


def _headline(node: Node) -> Text:
    return Text.assemble((node.label, "bold"), "  ", (node.value, STYLES.get(node.mark, "dim")))


def _label(node: Node) -> RenderableType:
    words = Text()
    if node.mark is not Mark.NONE:
        words.append(f"{node.mark.value} ", STYLES[node.mark])
    words.append(node.label, "bold" if node.children or node.upstream else "")
    if node.value:
        words.append(f": {node.value}" if _is_sentence(node) else f" {node.value}")
    if node.location is not None:
        words.append(f"  {node.location.path.rsplit('/')[-1]}:{node.location.line}", "dim")
    return Group(words, _change(node)) if node.upstream or node.emitted else words


def _is_sentence(node: Node) -> bool:
    return not node.value.startswith("→")


def _change(node: Node) -> Table:
    """Two columns: the sign of a diff and the line. A grid, so that long lines hang instead of running back."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    emitted = [("+", line, "green") for line in node.emitted]
    if node.replaced:
        lines = [("-", line, "red") for line in node.upstream] + emitted
    else:
        lines = emitted + [(" ", line, "dim") for line in node.upstream]
    for sign, line, style in lines:
        grid.add_row(Text(sign, style), Text(line, style))
    return grid
