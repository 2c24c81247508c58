"""The table model x method x check, as Markdown: ``python -m conformance llama bert`` or ``--all``, from ``tests/``.

A cell is ``ok``, ``FAIL`` or a number that points to the reason why the check does not apply. Models run in parallel.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

OK, FAIL = "ok", "FAIL"


@dataclass(frozen=True)
class Result:
    """What became of one check of one method on one subject."""

    model_type: str
    subject: str
    method: str
    check: str
    text: str = ""  # the error, or the reason why the check does not apply
    ran: bool = True

    @property
    def failed(self) -> bool:
        return self.ran and bool(self.text)


@dataclass
class Notes:
    """Numbered reasons, each once."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, reason: str) -> int:
        return self.numbers.setdefault(reason, len(self.numbers) + 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("model_types", nargs="*", help="model types, as upstream calls them")
    parser.add_argument("--all", action="store_true", help="every generated model")
    parser.add_argument("--check", action="append", default=[], help="only this check (may be repeated)")
    parser.add_argument("--method", action="append", default=[], help="only this method (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time (default: 2)")
    options = parser.parse_args(arguments)
    model_types = generated_models() if options.all else options.model_types
    if not model_types:
        parser.error(f"name a model type, or --all. Generated: {', '.join(generated_models())}")
    started = time.perf_counter()
    results = run_models(model_types, options.jobs, tuple(options.check), tuple(options.method))
    print(table(results))
    failures = [result for result in results if result.failed]
    print(f"\n{summary(results)} in {time.perf_counter() - started:.0f} s")
    for result in failures:
        print(f"\n### {result.model_type}, {result.subject}, {result.method}, {result.check}\n\n{result.text}")
    return 1 if failures else 0


def generated_models() -> list[str]:
    import adapter_models  # noqa: F401  registers
    from adapter_runtime.contract.registry import registered

    return sorted(registered().methods)


def run_models(
    model_types: Sequence[str], jobs: int, checks: tuple[str, ...] = (), methods: tuple[str, ...] = ()
) -> list[Result]:
    """Results of all models, in the order of `model_types`. One process per model; torch is imported once in each."""
    if len(model_types) == 1 or jobs == 1:
        return [result for name in model_types for result in run_model(name, checks, methods)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(run_model, name, checks, methods) for name in model_types]
        return [result for future in futures for result in future.result()]


def run_model(model_type: str, checks: tuple[str, ...] = (), methods: tuple[str, ...] = ()) -> list[Result]:
    """Every cell of one model's table. An error of a check is a result, whatever it is."""
    import torch

    from conformance.checks import MODEL_CHECKS, cells

    torch.set_num_threads(1)
    results = _missing_attention(model_type)
    for check in MODEL_CHECKS:
        if not checks or check.name in checks:
            for subject in check.subjects(model_type):
                why_not = check.why_not(subject)
                error = why_not or _error_of(lambda check=check, subject=subject: check.run(subject))
                results.append(Result(model_type, subject.label, "", check.name, error, ran=not why_not))
    for cell in cells(model_type):
        if (checks and cell.check.name not in checks) or (methods and cell.method.name not in methods):
            continue
        why_not = cell.why_not
        error = why_not or _error_of(lambda cell=cell: cell.check.run(cell.subject, cell.method))
        label, method = cell.subject.label, cell.method.name
        results.append(Result(model_type, label, method, cell.check.name, error, ran=not why_not))
    return results


def _missing_attention(model_type: str) -> list[Result]:
    """What every check leaves out because upstream does not have it."""
    from conformance.subjects import head_subjects, without_sdpa

    reasons = {subject.label: without_sdpa(subject) for subject in head_subjects(model_type)}
    return [Result(model_type, label, "", "sdpa", why, ran=False) for label, why in reasons.items() if why]


def _error_of(run) -> str:  # type: ignore[no-untyped-def]
    try:
        run()
    except Exception as error:
        first, *_ = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {first[:300]}"
    return ""


def table(results: Iterable[Result]) -> str:
    """One Markdown table per model: a row per method, a column per check; then the reasons."""
    notes = Notes()
    by_model: dict[str, list[Result]] = {}
    for result in results:
        by_model.setdefault(result.model_type, []).append(result)
    parts = [_model_table(name, entries, notes) for name, entries in by_model.items()]
    reasons = [f"{number}. {reason}" for reason, number in notes.numbers.items()]
    return "\n\n".join([*parts, "\n".join(["Not applicable:", "", *reasons])] if reasons else parts)


def _model_table(model_type: str, results: list[Result], notes: Notes) -> str:
    plain = [result for result in results if not result.method]
    checks = list(dict.fromkeys(result.check for result in results if result.method))
    rows = dict.fromkeys((result.method, result.subject) for result in results if result.method)
    cells = {(result.method, result.subject, result.check): result for result in results}
    lines = [f"## {model_type}", ""]
    for check in dict.fromkeys(result.check for result in plain):
        shown = ", ".join(f"{entry.subject} {_cell(entry, notes)}" for entry in plain if entry.check == check)
        lines += [f"{check}: {shown}", ""]
    if not rows:
        return "\n".join(lines)
    lines += ["| method | on | " + " | ".join(checks) + " |", "|---" * (len(checks) + 2) + "|"]
    for method, subject in rows:
        shown = [_cell(cells[method, subject, check], notes) for check in checks]
        lines.append(f"| {method} | {subject} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(result: Result, notes: Notes) -> str:
    if not result.ran:
        return f"({notes.number(result.text)})"
    return FAIL if result.failed else OK


def summary(results: Sequence[Result]) -> str:
    ran = [result for result in results if result.ran]
    failed = sum(result.failed for result in ran)
    return f"{len(ran)} checks ran, {failed} failed, {len(results) - len(ran)} do not apply"


if __name__ == "__main__":
    sys.exit(main())
