"""What add-model and remove-model share: to bring a tree in step, or only to show what that would change."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from adapter_codegen.commands.show.console import Console
from adapter_codegen.commands.show.diffs import show_diff, unified_diff
from adapter_codegen.diagnostics import report
from adapter_codegen.diagnostics.faults import fault_of, is_bug
from adapter_codegen.diagnostics.table import Fault
from adapter_codegen.emit.disk import Changes, read
from adapter_codegen.emit.layout import Target
from adapter_codegen.generate import Generated
from adapter_codegen.model import Diagnostic, Level, ModelPlan, Refusal
from adapter_codegen.upstream import Release

STYLES = {"created": "green", "updated": "yellow", "deleted": "red"}


def write(
    console: Console, generated: Generated, target: Target, *, dry_run: bool, diff: bool, overwrite: bool = False
) -> None:
    """Write what was generated; with `dry_run` or `diff` only tell. Raises what `Generated.write` raises."""
    changes = generated.changes(target)
    if diff:
        for path in sorted((*changes.created, *changes.updated, *changes.deleted)):
            show_diff(console, _diff(generated, target, path))
        return
    if not dry_run:
        generated.write(target, overwrite)
    show_changes(console, changes, dry_run)


def _diff(generated: Generated, target: Target, path: str) -> str:
    before = read(target.root, path)
    return unified_diff(
        path, before.decode("utf-8", "replace") if before is not None else None, generated.files.get(path)
    )


def show_changes(console: Console, changes: Changes, dry_run: bool) -> None:
    """A line per file that changed, and the counts."""
    listed = changes.by_verb()
    for verb, style in STYLES.items():
        for path in listed[verb]:
            console.show(Text.assemble((f"{verb:8}", style), path))
    counts = (f"{len(paths)} {verb}" for verb, paths in listed.items() if paths)
    would = "Nothing was written (--dry-run): " if dry_run else ""
    console.say(f"{would}{', '.join(counts)}.")


def show_plans(console: Console, plans: Iterable[ModelPlan], release: Release) -> None:
    """A line per model: its methods, and those that it lacks. The reasons follow under --verbose."""
    for plan in plans:
        held = [entry.method.value for entry in plan.methods if entry.supported]
        lacking = [entry.method.value for entry in plan.methods if not entry.supported]
        line = Text.assemble((plan.model_type, "bold"), f": {', '.join(held) or 'no method'}")
        if lacking:
            line.append(f" (not {', '.join(lacking)}: see `adapter-codegen explain {plan.model_type}`)", "yellow")
        console.say(line)
        for diagnostic in report.collect(plan.diagnostics):
            tell = console.complain if fault_of(diagnostic) is Fault.CONFORMANCE else console.detail
            tell(report.text(diagnostic, release_sources(release)))


def refused(console: Console, generated: Generated, release: Release, briefly: bool) -> None:
    """Tell which models were refused and why; `briefly`: only how many, and those that a bug of ours stopped."""
    told = tuple(refusal for refusal in generated.refusals if not briefly or by_a_bug(refusal))
    failing = sum(map(by_a_verdict, generated.refusals)) if briefly else 0
    if count := len(generated.refusals) - len(told) - failing:
        console.say(f"{report.plural(count, 'model type')} cannot be planned; `adapter-codegen list --plan` says why.")
    if failing:
        console.say(
            f"{report.plural(failing, 'model type')} refused, which fail a conformance check: see plan/verdicts.json."
        )
    for refusal in told:
        console.complain(Text.assemble((refusal.model_type, "bold"), " was refused:"))
        for diagnostic in _worst(refusal.diagnostics):
            console.complain(report.text(diagnostic, release_sources(release)))


def by_a_bug(refusal: Refusal) -> bool:
    """Whether the tool failed, and not upstream's text."""
    return any(map(is_bug, refusal.diagnostics))


def by_a_verdict(refusal: Refusal) -> bool:
    """Whether the model was understood, and what is generated fails a conformance check."""
    return any(fault_of(diagnostic) is Fault.CONFORMANCE for diagnostic in refusal.diagnostics)


def tell_whose_verdicts(console: Console, release: Release) -> None:
    """Say it where the conformance checks have tried another release than the one that is read."""
    from adapter_codegen.plan.told.verdicts import own_verdicts

    tried = own_verdicts().transformers
    if tried != release.version:
        console.say(
            f"The conformance checks have tried transformers {tried}; what fails them in {release.version} is not known."
        )


def _worst(diagnostics: tuple[Diagnostic, ...]) -> list[Diagnostic]:
    """The errors; all of them where no error explains the refusal."""
    collected = report.collect(diagnostics)
    return [entry for entry in collected if entry.level is Level.ERROR] or list(collected)


def release_sources(release: Release) -> report.Sources:
    """Source lines for reports, from the release that the places belong to."""

    def source(path: str) -> str | None:
        return release.read(path) if release.exists(path) else None

    return source
