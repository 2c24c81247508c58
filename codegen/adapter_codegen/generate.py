"""The whole way for some models: plan, rewrite, render, format, verify; everything in memory.

`add_models` and `remove_models` say what shall be in the tree afterwards; `disk.write` brings it there. A model's own
files depend on that model alone, shared files on the records in the manifest, so one model never plans the others
again; unless the release or the tool itself has changed, in which case nothing that was written before can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.faults import crash, fault_of
from adapter_codegen.diagnostics.table import Fault, Problem
from adapter_codegen.emit.disk import Changes, changes, refuse_installation, write
from adapter_codegen.emit.formatting import formatted
from adapter_codegen.emit.layout import CHECKOUT, Layout, Target
from adapter_codegen.emit.manifest import EMPTY, Manifest, ModelRecord, digest, dump, generator_digest, load
from adapter_codegen.model import ModelPlan, Refusal
from adapter_codegen.upstream import Release

POOL_FROM = 6  # models; for fewer, starting processes costs more than they save


@dataclass(frozen=True)
class GeneratedModel:
    """The files of one model, formatted and verified, and what the manifest keeps about it."""

    plan: ModelPlan
    record: ModelRecord
    files: Mapping[str, str]


ModelResult = GeneratedModel | Refusal
Progress = Callable[[str], None]  # called with a model type when that model is done


def silent(model_type: str) -> None:
    """Progress that is reported to nobody."""


@dataclass(frozen=True)
class Generated:
    """What shall be in the tree. Files of models that were not generated again stay as they are."""

    files: Mapping[str, str]  # path -> text, sorted; the manifest too
    obsolete: tuple[str, ...]  # written before and no longer wanted
    plans: tuple[ModelPlan, ...]
    refusals: tuple[Refusal, ...]
    manifest: Manifest
    previous: Manifest
    layout: Layout = CHECKOUT

    @property
    def written(self) -> dict[str, str]:
        """Path -> digest of what the tool wrote last time: anything else there is a hand edit."""
        return {**self.previous.files(), self.layout.manifest: digest(dump(self.previous))}

    def changes(self, target: Target) -> Changes:
        """What `write` would do. Raises what `disk.changes` raises."""
        return changes(target.root, self.files, self.obsolete)

    def write(self, target: Target, overwrite: bool = False) -> Changes:
        """Bring the tree in step. Raises what `disk.write` raises; then nothing was written."""
        planned = self.changes(target)
        if not planned:  # to know what was written costs a whole manifest
            refuse_installation(target.root)
            return planned
        return write(target.root, self.files, self.obsolete, self.written, overwrite)


def generate(
    release: Release, model_types: Iterable[str], layout: Layout = CHECKOUT, progress: Progress = silent
) -> Generated:
    """Everything for `model_types`, as into an empty folder. Where one of them fails, that one is refused.

    Raises:
        CodegenError: overrides.toml (P300 to P304) or verdicts.json (C100) is wrong, or a shared file fails a check of
            ours (V-codes).
    """
    results = _generate_all(release, model_types, layout, progress, verdicts=True)
    return _assemble(release.version, EMPTY, {}, results, layout, generator_digest())


def add_models(
    release: Release,
    model_types: Iterable[str],
    target: Target,
    progress: Progress = silent,
    verdicts: bool = True,
) -> Generated:
    """The tree below `target` with `model_types` added, or written again where they are there.

    A model that is there and is now refused keeps its files. Raises what `generate` raises, and CodegenError for a
    manifest that cannot be read (M101).

    Args:
        verdicts: whether verdicts.json is heeded. What is written without it is what the conformance checks try.
    """
    previous = load(target.root, target.layout.manifest)
    names = {*model_types, *outdated(release, target, verdicts)}
    return _update(release, previous, names, target.layout, progress, verdicts)


def outdated(release: Release, target: Target, verdicts: bool = True) -> frozenset[str]:
    """The models that `add_models` writes again unasked: all that are there, where the release or the tool has changed.

    Raises:
        CodegenError: the manifest cannot be read (M101).
    """
    previous = load(target.root, target.layout.manifest)
    same = (previous.transformers, previous.generator) == (release.version, generator_digest(verdicts))
    return frozenset() if same else frozenset(previous.models)


def regenerate(release: Release, target: Target, progress: Progress = silent) -> Generated:
    """The tree below `target` with every model that is there written again. Raises what `add_models` raises."""
    previous = load(target.root, target.layout.manifest)
    return _update(release, previous, set(previous.models), target.layout, progress, verdicts=True)


def remove_models(model_types: Iterable[str], target: Target) -> Generated:
    """The tree below `target` without `model_types`.

    Raises:
        CodegenError: a model type is not in the tree (M102), or the manifest cannot be read (M101).
    """
    previous = load(target.root, target.layout.manifest)
    removed = set(model_types)
    unknown = sorted(removed - set(previous.models))
    if unknown:
        there = ", ".join(sorted(previous.models)) or "none"
        raise Problem.NOT_GENERATED.error(models=", ".join(unknown), there=there)
    kept = {name: record for name, record in previous.models.items() if name not in removed}
    return _assemble(previous.transformers, previous, kept, (), target.layout, previous.generator)


def generate_model(release: Release, model_type: str, layout: Layout = CHECKOUT, verdicts: bool = True) -> ModelResult:
    """The files of one model, or why there are none: whatever goes wrong with it concerns this model alone.

    Raises:
        CodegenError: its entry in overrides.toml is wrong (P300 to P304), or verdicts.json is (C100).
    """
    try:
        return _generated(release, model_type, layout, verdicts)
    except CodegenError as error:
        if any(fault_of(diagnostic) in (Fault.OVERRIDES, Fault.CONFORMANCE) for diagnostic in error.diagnostics):
            raise
        return Refusal(model_type, error.diagnostics)
    except Exception as error:
        return Refusal(model_type, (crash(error),))


def _generated(release: Release, model_type: str, layout: Layout, verdicts: bool) -> ModelResult:
    from adapter_codegen.emit.render import record_of, render_model
    from adapter_codegen.emit.verify import verify_model
    from adapter_codegen.parse import parse_module
    from adapter_codegen.plan import plan_adapter_model, plan_model
    from adapter_codegen.plan.told.verdicts import NO_VERDICTS
    from adapter_codegen.rewrite import rewrite_module

    plan = plan_model(release, model_type, verdicts=None if verdicts else NO_VERDICTS)
    if isinstance(plan, Refusal):
        return plan
    facts = parse_module(release.read(plan.path), plan.path)
    body = rewrite_module(facts, plan)
    record = record_of(plan, _input_digests(release, plan))
    adapter_model = plan_adapter_model(plan, facts, record.adapter_model)
    rendered = render_model(plan, adapter_model, body, record, layout)
    files = {path: formatted(path, text) for path, text in rendered.items()}
    verify_model(facts, plan, files)
    return GeneratedModel(plan, replace(record, files=_digests(files)), files)


def _update(
    release: Release, previous: Manifest, model_types: set[str], layout: Layout, progress: Progress, verdicts: bool
) -> Generated:
    results = _generate_all(release, model_types, layout, progress, verdicts)
    renewed = {result.plan.model_type for result in results if isinstance(result, GeneratedModel)}
    kept = {name: record for name, record in previous.models.items() if name not in renewed}
    return _assemble(release.version, previous, kept, results, layout, generator_digest(verdicts))


def _generate_all(
    release: Release, model_types: Iterable[str], layout: Layout, progress: Progress, verdicts: bool
) -> list[ModelResult]:
    """One result per model type, in their order; in processes where there are many."""
    from adapter_codegen.plan.pool import in_processes  # here, as in `_generated`: a check by digests parses nothing

    ordered = sorted(set(model_types))
    jobs = 1 if len(ordered) < POOL_FROM else None
    return in_processes(partial(generate_model, release, layout=layout, verdicts=verdicts), ordered, jobs, progress)


def _assemble(
    version: str,
    previous: Manifest,
    kept: Mapping[str, ModelRecord],
    results: Sequence[ModelResult],
    layout: Layout,
    generator: str,
) -> Generated:
    """Model files, shared files and the manifest together."""
    from adapter_codegen.emit.render import render_shared
    from adapter_codegen.emit.verify import verify_shared

    models = {result.plan.model_type: result for result in results if isinstance(result, GeneratedModel)}
    records = {**kept, **{name: model.record for name, model in models.items()}}
    rendered = render_shared(list(records.values()), layout)
    shared = {path: formatted(path, text) for path, text in rendered.items()}
    verify_shared(shared)
    manifest = Manifest(version, generator, records, _digests(shared))
    files = {path: text for model in models.values() for path, text in model.files.items()}
    files |= {**shared, layout.manifest: dump(manifest)}
    return Generated(
        files=dict(sorted(files.items())),
        obsolete=tuple(sorted(set(previous.files()) - set(manifest.files()))),
        plans=tuple(model.plan for model in models.values()),
        refusals=tuple(result for result in results if isinstance(result, Refusal)),
        manifest=manifest,
        previous=previous,
        layout=layout,
    )


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    return {path: digest(text) for path, text in files.items()}


def _input_digests(release: Release, plan: ModelPlan) -> dict[str, str]:
    """The upstream files that a plan is made from."""
    config = plan.config_module.removeprefix("transformers.").replace(".", "/") + ".py"
    auto = ("auto_mappings", "configuration_auto", "modeling_auto")
    paths = {plan.path, config, *(f"models/auto/{name}.py" for name in auto)}
    return {path: digest(release.read_bytes(path)) for path in sorted(paths) if release.exists(path)}
