"""Projections that are given some positions only, those of all rows of a batch in one: ``x[mask] += f(x[mask])``.

How many of them belong to which row, they do not show. What divides a batch among adapters must know, and a gate, which is a mean over
the positions of a row.
"""

from __future__ import annotations

from collections.abc import Iterable

from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.stream.additions.residuals import InPart
from adapter_codegen.plan.stream.roles import only_behind


def selected_projections(paths: Iterable[str], additions: Iterable[InPart], scene: Scene) -> tuple[str, ...]:
    """Of the projections at `paths`, those that run for an addition to some positions, in some calls of their layer or in all."""
    behind = (value for addition in additions for value in only_behind(addition).values())
    found = {value.path for value in behind if scene.is_call_of(value, Kind.LINEAR)}
    return tuple(path for path in dict.fromkeys(paths) if path in found)
