"""Runs the checks of models, and shows them: ``python -m conformance llama bert`` or ``--all``, from ``tests/``.

Each model is checked in a process of its own, in a limited time. ``--all`` tries one method of each family on every model that can be planned
(the models of the core: every method), and writes what came out into a file, which it goes on with when it is called again. What is not checked
in, since an earlier run refused it, is generated for the run and tried like the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance import planned
from conformance.results import ModelResult, Result, ResultFile, summary
from conformance.runner import run_models

OK, FAIL = "ok", "FAIL"
RESULTS = Path(__file__).with_name("results.jsonl")


@dataclass
class Notes:
    """Numbered reasons, each once."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, reason: str) -> int:
        return self.numbers.setdefault(reason, len(self.numbers) + 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write_verdicts or options.write_page:
        if options.package:
            use_package(options.package)
        return _write(options)
    if not (options.all or options.again or options.model_types):
        parser.error(f"name a model type, or --all. Generated: {', '.join(generated_models())}")
    with tempfile.TemporaryDirectory() as folder:
        _find_models(options, Path(folder))
        _import_checks()
        if options.all or options.again:
            return _run_all(options, generated_models())
        return _run_named(options, options.model_types)


def _find_models(options: argparse.Namespace, folder: Path) -> None:
    """Let every model that is asked for be there, also one that is not checked in, as it was refused: it is generated into `folder`."""
    if options.all:
        use_package(planned.write_everything(options.package or folder))
    elif options.package:
        use_package(options.package)
    missing = {*options.model_types, *options.again} - set(generated_models())
    if missing:
        planned.register_beside(sorted(missing), folder)


def _import_checks() -> None:
    """Before the processes of the models are forked, so that none has to: it takes as long as half of the checks."""
    import peft  # noqa: F401

    import conformance.cells
    import conformance.checks  # noqa: F401


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("model_types", nargs="*", help="model types, as upstream calls them")
    parser.add_argument("--all", action="store_true", help="every model that can be planned, with results in a file")
    parser.add_argument("--again", action="append", default=[], metavar="MODEL", help="redo this one in the file")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help=f"the file (default: {RESULTS.name} beside the code)"
    )
    parser.add_argument(
        "--package",
        type=Path,
        help="folder of the package adapter_models, in the place of the installed one; with --all, where one of every model type"
        " that can be planned stands or is written (default: a temporary one)",
    )
    parser.add_argument("--methods", choices=("families", "all"), help="one per family, or every one")
    parser.add_argument("--write-verdicts", action="store_true", help="write plan/verdicts.json from the results")
    parser.add_argument("--write-page", action="store_true", help="write docs/conformance.md from the results")
    parser.add_argument("--check", action="append", default=[], help="only this check (may be repeated)")
    parser.add_argument("--method", action="append", default=[], help="only this method (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time (default: 2)")
    parser.add_argument("--limit", type=float, default=600, help="seconds of one core for a model (default: 600)")
    return parser


def _run_all(options: argparse.Namespace, model_types: Sequence[str]) -> int:
    import transformers

    file = ResultFile(options.results, transformers.__version__)
    if options.again:
        model_types = options.again
    else:
        file.keep(model_types)
        model_types = [name for name in model_types if name not in file.models]
    scope = Scope.of(options)
    for number, (result, seconds) in enumerate(
        run_models(model_types, scope.run, options.jobs, options.limit), start=1
    ):
        file.add(result)
        print(progress(result, seconds, number, len(model_types)), flush=True)
    print(summary(file.models.values()))
    return 0 if all(result.clean for result in file.models.values()) else 1


def _write(options: argparse.Namespace) -> int:
    """Write what follows from the file of results; nothing is run."""
    import transformers

    from conformance import refused_by_plan
    from conformance.page import write_page
    from conformance.verdicts import VERDICTS, verdicts_text

    release = transformers.__version__
    results = ResultFile(options.results, release).ordered()
    if not results:
        raise SystemExit(f"{options.results} holds no results. Run the checks first: python -m conformance --all")
    if options.write_verdicts:
        VERDICTS.write_text(verdicts_text(results, release), encoding="utf-8")
    if options.write_page:
        refused = refused_by_plan.planned_anew({result.model_type for result in results})
        refused_by_plan.write(refused, release)
        write_page(results, release, refused)
    print(summary(results))
    return 0


def _run_named(options: argparse.Namespace, model_types: Sequence[str]) -> int:
    started = time.perf_counter()
    scope = Scope.of(options)
    results = {
        result.model_type: result for result, _ in run_models(model_types, scope.run, options.jobs, options.limit)
    }
    ordered = [results[name] for name in model_types]
    print(table(cell for result in ordered for cell in result.cells))
    print(f"\n{summary(ordered)} in {time.perf_counter() - started:.0f} s")
    for result in ordered:
        if result.status != "ran":
            print(f"\n### {result.model_type}: {result.status}\n\n{result.text}")
        for cell in result.failures:
            print(f"\n### {cell.model_type}, {cell.subject}, {cell.method}, {cell.check}\n\n{cell.text}")
    return 0 if all(result.clean for result in ordered) else 1


def use_package(folder: Path) -> None:
    """Let `import adapter_models` find the package in `folder`, or in ``folder/adapter_models``."""
    home = folder if (folder / "__init__.py").exists() else folder / "adapter_models"
    spec = importlib.util.spec_from_file_location(
        "adapter_models", home / "__init__.py", submodule_search_locations=[str(home)]
    )
    if spec is None or spec.loader is None or not (home / "__init__.py").exists():
        raise SystemExit(f"{folder} holds no package: there is no {home / '__init__.py'}")
    package = importlib.util.module_from_spec(spec)
    sys.modules["adapter_models"] = package
    spec.loader.exec_module(package)


def generated_models() -> list[str]:
    import adapter_models  # noqa: F401  registers
    from adapter_runtime.contract.registry import registered

    return sorted(registered().methods)


@dataclass(frozen=True)
class Scope:
    """Which cells of a model are run."""

    methods: str | None = None  # "families", "all"; None: what suits the model
    only_checks: tuple[str, ...] = ()
    only_methods: tuple[str, ...] = ()

    @staticmethod
    def of(options: argparse.Namespace) -> Scope:
        default = "families" if options.all or options.again else "all"
        return Scope(options.methods or default, tuple(options.check), tuple(options.method))

    def run(self, model_type: str, report: object) -> None:
        """In the process of the model."""
        from conformance.cells import run_model

        run_model(model_type, report, self.methods or "all", self.only_checks, self.only_methods)


def progress(result: ModelResult, seconds: float, number: int, total: int) -> str:
    failures = result.failures
    what = result.status if result.status != "ran" else "clean" if not failures else f"{len(failures)} failed"
    text = result.text or (f"{failures[0].method} {failures[0].check}: {failures[0].text}" if failures else "")
    return f"[{number}/{total}] {result.model_type}: {what} ({seconds:.1f} s) {text[:150]}".rstrip()


def table(results: Iterable[Result]) -> str:
    """One Markdown table per model: a row per method, a column per check; then the reasons."""
    from conformance.reasons import Reason

    notes = Notes()
    by_model: dict[str, list[Result]] = {}
    for result in results:
        by_model.setdefault(result.model_type, []).append(result)
    parts = [_model_table(name, entries, notes) for name, entries in by_model.items()]
    reasons = [f"{number}. {Reason[reason].value}" for reason, number in notes.numbers.items()]
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
        shown = [
            _cell(cells[method, subject, check], notes) if (method, subject, check) in cells else ""
            for check in checks
        ]
        lines.append(f"| {method} | {subject} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _cell(result: Result, notes: Notes) -> str:
    if not result.ran:
        return f"({notes.number(result.text)})"
    return FAIL if result.failed else OK


if __name__ == "__main__":
    sys.exit(main())
