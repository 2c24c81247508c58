"""Where a model type stands once it was planned, and how many of its residual streams are complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from adapter_codegen.diagnostics.report import collect
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Diagnostic, Level, Method, MethodSupport, ModelPlan, PlanResult


class Standing(str, Enum):
    """What became of a model type. The values are the words shown to people."""

    PLANNED = "planned"
    REFUSED = "refused"
    NO_PLACE = "no place"  # no layers that adapters could stand in


_BY_CODE = {Problem.NO_LAYERS.code: Standing.NO_PLACE}


@dataclass(frozen=True)
class TypeRow:
    """What the plan makes of one model type."""

    model_type: str
    path: str  # of its modeling file; "" where there is none
    standing: Standing
    methods: tuple[MethodSupport, ...] = ()
    stacks: Mapping[str, str] = field(default_factory=dict)  # residual stream -> "" if complete, else why it is not
    reason: str = ""  # the one thing to know about what it lacks; "" where it lacks nothing

    @property
    def planned(self) -> bool:
        return self.standing is Standing.PLANNED

    @property
    def complete(self) -> int:
        """How many of its streams are complete; a model that is not planned has none."""
        return sum(not reason for reason in self.stacks.values()) if self.planned else 0

    @property
    def is_complete(self) -> bool:
        return self.planned and self.complete == len(self.stacks)

    def supports(self, method: Method) -> bool:
        return any(entry.method is method and entry.supported for entry in self.methods)


def type_row(path: str, result: PlanResult) -> TypeRow:
    """The row of a model type whose modeling file is at `path`."""
    stacks = result.base.streams if result.base is not None else {}
    if not isinstance(result, ModelPlan):
        return refused_row(result.model_type, path, result.diagnostics, stacks)
    lacking = next((entry.reason for entry in result.methods if not entry.supported), "")
    reason = next((f"{stack}: {why}" for stack, why in stacks.items() if why), lacking)
    return TypeRow(result.model_type, path, Standing.PLANNED, result.methods, stacks, reason)


def refused_row(
    model_type: str, path: str, diagnostics: tuple[Diagnostic, ...], stacks: Mapping[str, str] | None = None
) -> TypeRow:
    """The row of a model type that was refused, or could not be planned at all."""
    errors = [entry for entry in collect(diagnostics) if entry.level is Level.ERROR]
    standing = next((_BY_CODE[entry.code] for entry in errors if entry.code in _BY_CODE), Standing.REFUSED)
    reason = errors[0].message if errors else ""
    return TypeRow(model_type, path, standing, stacks=stacks or {}, reason=reason)
