"""What a recogniser found at a node of upstream's tree, before it becomes a `Diagnostic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Diagnostic, Level, Method
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.values import Value


@dataclass(frozen=True, eq=False)
class Finding:
    problem: Problem
    node: cst.CSTNode | None  # None where no place of the file is at fault
    methods: tuple[Method, ...] = ()  # those that it makes unavailable
    details: Mapping[str, str] = field(default_factory=dict)  # of the problem's message
    milder: Level | None = None  # in place of the problem's own level

    @property
    def level(self) -> Level:
        return self.milder or self.problem.level


def behind_super(value: Value, method: Method) -> Finding:
    """About a site in a function that its class overrides: see `Scene.is_behind_super`."""
    said = {"function": value.frame.function, "name": value.frame.class_name}
    return Finding(Problem.BEHIND_SUPER, value.node, (method,), said)


def as_diagnostic(finding: Finding, facts: ModuleFacts) -> Diagnostic:
    location = None if finding.node is None else facts.location(finding.node)
    return finding.problem.diagnostic(location, finding.methods, finding.level, **finding.details)
