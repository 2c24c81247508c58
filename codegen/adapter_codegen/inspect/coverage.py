"""``adapter-codegen coverage``: the plan over every modeling module of a release, in processes.

A worker returns a `ModuleRow` of plain data, never a tree or an exception: what goes wrong in one module, foreseen or
not, is a row of the report. Showing the report is the business of ``commands/show/coverage_view.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import libcst as cst

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.faults import crash
from adapter_codegen.diagnostics.report import collect
from adapter_codegen.model import BasePlan, Diagnostic, Level, Location, Method, MethodSupport, ModelPlan
from adapter_codegen.parse import ModuleFacts, parse_module, read_auto_mappings
from adapter_codegen.parse.automappings import dotted_module
from adapter_codegen.plan import ModulePlan, plan_model, plan_module
from adapter_codegen.plan.pool import in_processes
from adapter_codegen.rewrite import rewrite_module
from adapter_codegen.upstream import Release


@dataclass(frozen=True)
class ModuleRow:
    """What the plan makes of one modeling module."""

    path: str
    model_types: tuple[str, ...]  # whose base model stands in this module; () where upstream's auto classes know none
    cores: int  # attention cores that a prefix can be put in front of
    residuals: int  # residual additions that can hold a bottleneck
    rewritten: bool  # the edits of all those sites were made, and the result parses
    methods: tuple[MethodSupport, ...]  # of the first model type that is not refused
    diagnostics: tuple[Diagnostic, ...]  # of everything in the module, errors first

    @property
    def name(self) -> str:
        return module_name(self.path)

    @property
    def planned(self) -> bool:
        """Has attention cores and residual sites of which a rewrite is emitted and parses."""
        return self.rewritten and self.cores > 0 and self.residuals > 0

    def supports(self, method: Method) -> bool:
        return any(entry.method is method and entry.supported for entry in self.methods)

    @property
    def reason(self) -> str:
        """The one thing to know about a module that lacks something; "" where it lacks nothing."""
        for diagnostic in self.diagnostics:
            if diagnostic.level is not Level.NOTE:
                return diagnostic.message
        return next((entry.reason for entry in self.methods if not entry.supported), "")


@dataclass(frozen=True)
class CoverageReport:
    """All rows of a release, sorted by path."""

    version: str
    rows: tuple[ModuleRow, ...]

    @cached_property
    def planned(self) -> int:
        return sum(row.planned for row in self.rows)

    @cached_property
    def with_cores(self) -> int:
        return sum(row.cores > 0 for row in self.rows)

    @cached_property
    def with_residuals(self) -> int:
        return sum(row.residuals > 0 for row in self.rows)

    def supporting(self, method: Method) -> int:
        return sum(row.supports(method) for row in self.rows)

    def obstacles(self) -> list[tuple[str, int]]:
        """Codes of errors and warnings, and in how many modules each stands; the most frequent first."""
        counts: Counter[str] = Counter()
        for row in self.rows:
            counts.update({entry.code for entry in row.diagnostics if entry.level is not Level.NOTE})
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def module_name(path: str) -> str:
    """``llama`` of models/llama/modeling_llama.py."""
    return path.rsplit("/", 1)[-1].removeprefix("modeling_").removesuffix(".py")


def survey(
    release: Release,
    paths: Sequence[str] | None = None,
    jobs: int | None = None,
    advance: Callable[[str], None] = lambda path: None,
) -> CoverageReport:
    """Plan the modeling modules at `paths` (None: all of the release) in `jobs` processes (None: one per processor)."""
    chosen = release.modeling_paths() if paths is None else paths
    by_size = sorted(chosen, key=lambda path: (-len(release.read_bytes(path)), path))
    rows = in_processes(partial(survey_module, release), by_size, jobs, advance)
    return CoverageReport(release.version, tuple(sorted(rows, key=lambda row: row.path)))


def survey_module(release: Release, path: str) -> ModuleRow:
    """The row of one module. Never raises: a failure of the tool is a diagnostic of the row."""
    try:
        return _surveyed(release, path)
    except CodegenError as error:
        diagnostics = error.diagnostics
    except Exception as error:
        diagnostics = (crash(error),)
    return ModuleRow(path, (), 0, 0, False, (), diagnostics)


def _surveyed(release: Release, path: str) -> ModuleRow:
    model_types = read_auto_mappings(release).model_types_of(path)
    facts = parse_module(release.read(path), path)
    found = plan_module(facts)
    results = [plan_model(release, model_type, found=found) for model_type in model_types]
    plans = [result for result in results if isinstance(result, ModelPlan)]
    complaints = [entry for result in results for entry in result.diagnostics]
    failures = _rewrite_failures(facts, found)
    return ModuleRow(
        path=path,
        model_types=model_types,
        cores=found.cores,
        residuals=found.residuals,
        rewritten=not failures,
        methods=plans[0].methods if plans else (),
        diagnostics=collect((*found.diagnostics, *complaints, *failures)),
    )


def _rewrite_failures(facts: ModuleFacts, found: ModulePlan) -> tuple[Diagnostic, ...]:
    """Make the edits of all classes of a module, whatever models it serves; () where they succeed and the result parses."""
    try:
        cst.parse_module(rewrite_module(facts, _of_no_model(facts, found)))
    except CodegenError as error:
        return error.diagnostics
    except cst.ParserSyntaxError as error:
        return (crash(error),)
    return ()


def _of_no_model(facts: ModuleFacts, found: ModulePlan) -> ModelPlan:
    """A plan with the classes and layers of a module and nothing else: as much as `rewrite_module` reads."""
    return ModelPlan(
        model_type="coverage",
        version="",
        path=facts.path,
        module=dotted_module(facts.path),
        config_class="",
        config_module="",
        licence="",
        base=BasePlan("", Location(facts.path, 1, 0, 1, 0), "", "", (), ()),
        classes=found.classes,
        layers=found.layers,
        static_heads=(),
        flexible_heads=(),
        config_keys=(),
        methods=(),
        diagnostics=(),
        text_digest="",
        meaning_digest="",
    )
