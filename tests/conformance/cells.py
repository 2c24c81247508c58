"""The cells of one model, run one after the other, each with what became of it.

A failure says whose it is: an `AssertionError` is a check that does not hold, any other error is the product's where it came through
its code, and the harness's where it did not.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from conformance.compared import taken
from conformance.reasons import DoesNotApply, Reason
from conformance.results import Result, stable

OURS = ("adapter_runtime", "adapter_models")
UNION = "union"
CORE = ("bert", "llama")


def run_model(
    model_type: str,
    report: Callable[[Any], None],
    methods: str = "all",
    only_checks: tuple[str, ...] = (),
    only_methods: tuple[str, ...] = (),
) -> None:
    """Report every cell of one model's table as it ends.

    Args:
        methods: "families": one method of each, but for models of the core.
    """
    import torch

    from conformance.adapted import planned_methods, representatives
    from conformance.checks import CHECKS, MODEL_CHECKS, cells

    torch.set_num_threads(1)
    report(planned_methods(model_type))
    if why := why_untested(model_type):
        report(f"untested: {why}")
        return
    wanted = representatives(model_type) if methods == "families" and model_type not in CORE else None
    failing: set[str] = set()  # families
    broken: set[tuple[Any, str]] = set()  # methods that cannot even be added, by subject
    for check in MODEL_CHECKS:
        if check.name == UNION or (only_checks and check.name not in only_checks):
            continue
        for subject in check.subjects(model_type):
            report(f"{check.name} of {subject.label}")
            text, ran = outcome(partial(check.why_not, subject), partial(check.run, subject), check.may_find)
            report(Result(model_type, subject.label, "", check.name, text, ran, taken()))
    for cell in cells(model_type):
        name, check = cell.method.name, cell.check
        if (cell.subject, name) in broken:
            continue
        if (only_checks and check.name not in only_checks) or (only_methods and name not in only_methods):
            continue
        if wanted is not None and name not in wanted and name not in only_methods:
            continue
        report(f"{check.name} of {name} on {cell.subject.label}")
        text, ran = outcome(cell.why_not, partial(check.run, cell.subject, cell.method), check.may_find)
        report(Result(model_type, cell.subject.label, name, check.name, text, ran, taken()))
        if check is CHECKS[0] and ran and text:
            broken.add((cell.subject, name))
        failing.update(part.planned_as for part in cell.method.parts if ran and text)
    if not only_checks or UNION in only_checks:
        _run_union(model_type, report, failing)


def _run_union(model_type: str, report: Callable[[Any], None], failing: set[str]) -> None:
    """All families together that hold so far. Where that fails, those that fail alone are told apart."""
    from conformance.checks import MODEL_CHECKS
    from conformance.checks.union import every_method_together
    from conformance.methods import FAMILIES

    check = next(check for check in MODEL_CHECKS if check.name == UNION)
    for subject in check.subjects(model_type):
        report(f"{UNION} of {subject.label}")
        together = partial(every_method_together, subject, without=frozenset(failing))
        text, ran = outcome(partial(check.why_not, subject), together, check.may_find)
        if not (ran and text):
            report(Result(model_type, subject.label, "", UNION, text, ran))
            continue
        alone = {
            family: outcome(
                lambda: None,
                partial(every_method_together, subject, without=frozenset({*failing, *FAMILIES} - {family})),
                check.may_find,
            )[0]
            for family in FAMILIES
            if family not in failing
        }
        for family, found in alone.items():
            if found:
                report(Result(model_type, subject.label, FAMILIES[family], UNION, found))
        if not any(alone.values()):
            report(Result(model_type, subject.label, "", UNION, text))


def why_untested(model_type: str) -> str:
    """Why nothing can be tried: upstream's own class has no tiny instance that runs here. "" if it has one."""
    from conformance import instances
    from conformance.outputs import run
    from conformance.subjects import method_subjects

    if model_type in instances.without():
        return instances.without()[model_type]
    if why := instances.missing(model_type):
        return why
    try:
        for subject in method_subjects(model_type)[:1]:
            run(subject.upstream(), subject.padded_inputs())
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def outcome(
    why_not: Callable[[], Reason | None], run: Callable[[], None], may_find: tuple[Reason, ...]
) -> tuple[str, bool]:
    """The text of a cell, and whether its check ran."""
    taken()  # what was compared before
    try:
        if reason := why_not():
            return reason.name, False
        run()
    except DoesNotApply as found:
        if found.reason in may_find:
            return found.reason.name, False
        return f"harness: {found.reason.name} is no reason that this check may give", True
    except Exception as error:
        return described(error), True
    return "", True


def described(error: Exception) -> str:
    """Whose fault it is, its type, and the first line of what it says."""
    text = stable(str(error))
    if isinstance(error, AssertionError):
        return text or "AssertionError"
    frames = traceback.extract_tb(error.__traceback__)
    whose = "" if any(f"/{name}/" in frame.filename for frame in frames for name in OURS) else "harness: "
    return f"{whose}{type(error).__name__}: {text}"
