"""Which emitted lines a site became: the explanation shows them beside upstream's.

The emitted module is read back instead of asking ``rewrite``, so that what is shown is what would be written, after
formatting. The n-th pair of marker comments in a copied function belongs to the n-th statement that has sites.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider

from adapter_codegen.inspect.explain.outline import Site
from adapter_codegen.model import ClassPlan, ModelPlan
from adapter_codegen.rewrite.markers import CLOSE, OPEN
from adapter_codegen.rewrite.naming import with_adapters

Span = tuple[int, int]  # first and last line, counted from 1


def emitted_lines(plan: ModelPlan, text: str) -> dict[Site, tuple[str, ...]]:
    """For each site of the plan, the lines between the markers in `text`, the emitted modeling file."""
    spans = dict(_functions(text))
    lines = text.split("\n")
    found: dict[Site, tuple[str, ...]] = {}
    for entry in plan.classes:
        for function in entry.functions:
            first, last = spans[with_adapters(entry.name), function]
            found.update(_assigned(_sites(entry, function), list(_blocks(lines[first - 1 : last]))))
    return found


def _functions(text: str) -> Iterator[tuple[tuple[str, str], Span]]:
    """Class and name of every method, and the lines that it spans."""
    wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    positions = wrapper.resolve(PositionProvider)
    for owner in wrapper.module.body:
        for function in owner.body.body if isinstance(owner, cst.ClassDef) else ():
            if isinstance(owner, cst.ClassDef) and isinstance(function, cst.FunctionDef):
                span = positions[function]
                yield (owner.name.value, function.name.value), (span.start.line, span.end.line)


def _sites(entry: ClassPlan, function: str) -> list[list[Site]]:
    """The sites of a function, those of one statement together, in upstream's order."""
    sites: list[Site] = [*entry.prefix_sites, *entry.residual_sites]
    by_statement: dict[object, list[Site]] = {}
    for site in sorted((site for site in sites if site.function == function), key=lambda site: site.statement):
        by_statement.setdefault(site.statement, []).append(site)
    return list(by_statement.values())


def _blocks(lines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What stands between each pair of markers, dedented."""
    opened: int | None = None
    for index, line in enumerate(lines):
        if line.strip() == OPEN:
            opened = index
        elif line.strip() == CLOSE and opened is not None:
            yield tuple(textwrap.dedent("\n".join(lines[opened + 1 : index])).split("\n"))
            opened = None


def _assigned(sites: list[list[Site]], blocks: list[tuple[str, ...]]) -> Iterator[tuple[Site, tuple[str, ...]]]:
    """Nothing where the counts differ: no line is better than the wrong one."""
    if len(sites) == len(blocks):
        for members, block in zip(sites, blocks, strict=True):
            yield from ((site, block) for site in members)
