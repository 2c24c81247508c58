"""``adapter-codegen coverage``: the plan over every modeling module of a release, and its model types, in processes.

A worker returns a `ModuleRow` of plain data, never a tree or an exception: what goes wrong in one module, foreseen or
not, is a row of the report. Showing the report is the business of ``commands/show/coverage_view.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property, partial

import libcst as cst

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.faults import crash
from adapter_codegen.diagnostics.report import collect
from adapter_codegen.inspect.standing import Standing, TypeRow, refused_row, type_row
from adapter_codegen.model import BasePlan, Diagnostic, Level, Location, Method, MethodSupport, ModelPlan
from adapter_codegen.parse import AutoMappings, ModuleFacts, parse_module, read_auto_mappings
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
    types: tuple[TypeRow, ...]  # one for each of them
    cores: int  # attention cores that a prefix can be put in front of
    residuals: int  # residual additions that can hold a bottleneck
    rewritten: bool  # the edits of all those sites were made, and the result parses
    diagnostics: tuple[Diagnostic, ...]  # of everything in the module, errors first

    @property
    def name(self) -> str:
        return module_name(self.path)

    def like(self, pattern: str) -> ModuleRow:
        types = tuple(found for found in self.types if fnmatchcase(found.model_type, pattern))
        return replace(self, types=types) if types else self

    @property
    def planned(self) -> bool:
        """Has attention cores and residual sites of which a rewrite is emitted and parses."""
        return self.rewritten and self.cores > 0 and self.residuals > 0

    @property
    def methods(self) -> tuple[MethodSupport, ...]:
        """Of the first model type that is not refused."""
        return next((row.methods for row in self.types if row.planned), ())

    def supports(self, method: Method) -> bool:
        return any(entry.method is method and entry.supported for entry in self.methods)


@dataclass(frozen=True)
class CoverageReport:
    """All rows of a release, sorted by path."""

    version: str
    rows: tuple[ModuleRow, ...]
    without_module: tuple[TypeRow, ...] = ()  # model types whose base class stands in no modeling file

    @cached_property
    def types(self) -> tuple[TypeRow, ...]:
        """Of all model types, sorted by name."""
        found = (*self.without_module, *(found for row in self.rows for found in row.types))
        return tuple(sorted(found, key=lambda one: one.model_type))

    def like(self, pattern: str) -> CoverageReport:
        """With those model types alone that are like `pattern`, a glob; with all of a module of which none is."""
        return replace(self, rows=tuple(row.like(pattern) for row in self.rows))

    def standing(self, standing: Standing) -> int:
        """How many model types stand there."""
        return sum(found.standing is standing for found in self.types)

    @cached_property
    def stacks(self) -> int:
        """Residual streams of the model types that are planned."""
        return sum(len(found.stacks) for found in self.types if found.planned)

    @cached_property
    def complete_stacks(self) -> int:
        return sum(found.complete for found in self.types)

    def types_supporting(self, method: Method, only_complete: bool = False) -> int:
        """Model types with a method; of these, those alone whose every stream is complete."""
        return sum(found.supports(method) and (found.is_complete or not only_complete) for found in self.types)

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


def modules_like(release: Release, pattern: str) -> list[str]:
    """The modeling modules with a name like `pattern`, a glob, or with a model type of such a name."""
    types_of = read_auto_mappings(release).model_types_of
    return [
        path
        for path in release.modeling_paths()
        if any(fnmatchcase(name, pattern) for name in (module_name(path), *types_of(path)))
    ]


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
    left = _without_module(release, rows) if len(chosen) == len(release.modeling_paths()) else ()
    return CoverageReport(release.version, tuple(sorted(rows, key=lambda row: row.path)), left)


def _without_module(release: Release, rows: Iterable[ModuleRow]) -> tuple[TypeRow, ...]:
    """The model types that are in none of the rows of all modules."""
    mappings = read_auto_mappings(release)
    return tuple(
        refused_row(name, "", _why_not(mappings, name))
        for name in sorted({*mappings.model_types} - {name for row in rows for name in row.model_types})
    )


def _why_not(mappings: AutoMappings, model_type: str) -> tuple[Diagnostic, ...]:
    try:
        mappings.entry(model_type)
    except CodegenError as error:
        return error.diagnostics
    return ()


def survey_module(release: Release, path: str) -> ModuleRow:
    """The row of one module. Never raises: a failure of the tool is a diagnostic of the row."""
    model_types = read_auto_mappings(release).model_types_of(path)
    try:
        return _surveyed(release, path, model_types)
    except CodegenError as error:
        diagnostics = error.diagnostics
    except Exception as error:
        diagnostics = (crash(error),)
    types = tuple(refused_row(model_type, path, diagnostics) for model_type in model_types)
    return ModuleRow(path, model_types, types, 0, 0, False, diagnostics)


def _surveyed(release: Release, path: str, model_types: tuple[str, ...]) -> ModuleRow:
    facts = parse_module(release.read(path), path)
    found = plan_module(facts)
    results = [plan_model(release, model_type, found=found) for model_type in model_types]
    complaints = [entry for result in results for entry in result.diagnostics]
    failures = _rewrite_failures(facts, found)
    return ModuleRow(
        path=path,
        model_types=model_types,
        types=tuple(type_row(path, result) for result in results),
        cores=found.cores,
        residuals=found.residuals,
        rewritten=not failures,
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
