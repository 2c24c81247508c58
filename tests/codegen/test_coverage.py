"""The survey of modules: rows, totals and what is made of them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
from click.testing import CliRunner

from adapter_codegen.cli import cli
from adapter_codegen.inspect import coverage
from adapter_codegen.inspect.coverage import CoverageReport, ModuleRow, survey, survey_module
from adapter_codegen.model import Diagnostic, Level, Method, MethodSupport
from adapter_codegen.upstream import Release, open_release

WARNING = Diagnostic("P203", Level.WARNING, "A mask that no rule claims.", "Add a rule.")
NOTE = Diagnostic("P204", Level.NOTE, "Only a remark.", "Nothing to do.")
SUPPORT = (MethodSupport(Method.LORA, True, ""), MethodSupport(Method.PREFIX_TUNING, False, "No layers."))


def row(
    name: str = "tiny",
    cores: int = 1,
    residuals: int = 2,
    rewritten: bool = True,
    diagnostics: tuple[Diagnostic, ...] = (),
) -> ModuleRow:
    return ModuleRow(f"models/x/modeling_{name}.py", ("x",), cores, residuals, rewritten, SUPPORT, diagnostics)


@pytest.fixture(scope="module")
def release() -> Release:
    return open_release()


@pytest.mark.parametrize(
    "unplanned",
    [row(cores=0), row(residuals=0), row(rewritten=False)],
    ids=["no attention core", "no residual site", "the rewrite fails"],
)
def test_a_module_is_not_counted_as_planned_with(unplanned: ModuleRow) -> None:
    assert not unplanned.planned
    assert CoverageReport("1", (unplanned, row())).planned == 1


def test_the_reason_is_the_first_diagnostic_that_costs_something() -> None:
    assert row(diagnostics=(NOTE, WARNING)).reason == "A mask that no rule claims."
    assert row(diagnostics=(NOTE,)).reason == "No layers."


def test_the_reason_of_a_row_is_that_of_the_first_method_it_lacks() -> None:
    lacking = (MethodSupport(Method.REFT, False, "No layers."), MethodSupport(Method.INVERTIBLE, False, "No tokens."))
    assert replace(row(), methods=lacking).reason == "No layers."


def test_obstacles_are_counted_once_per_module_and_notes_are_none() -> None:
    rows = (row(diagnostics=(WARNING, WARNING, NOTE)), row(diagnostics=(WARNING,)))
    assert CoverageReport("1", rows).obstacles() == [("P203", 2)]


def test_totals_count_modules_by_method() -> None:
    report = CoverageReport("1", (row(), row("other", cores=0)))
    assert (report.supporting(Method.LORA), report.supporting(Method.PREFIX_TUNING)) == (2, 0)
    assert (report.with_cores, report.with_residuals) == (1, 2)


def test_real_modules_are_planned_and_rewritten(release: Release) -> None:
    found = survey_module(release, "models/llama/modeling_llama.py")
    assert (found.cores, found.residuals, found.planned) == (1, 2, True)
    assert "llama" in found.model_types
    assert all(found.supports(method) for method in (Method.BOTTLENECK, Method.PREFIX_TUNING, Method.LORA))


def test_a_module_without_attention_is_a_row_with_its_reason(release: Release) -> None:
    found = survey_module(release, "models/resnet/modeling_resnet.py")
    assert not found.planned and found.reason


def test_a_crash_in_one_module_is_a_row_that_asks_for_a_report(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(facts: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(coverage, "plan_module", fail)
    found = survey_module(release, "models/llama/modeling_llama.py")
    assert [(entry.code, entry.level) for entry in found.diagnostics] == [("X001", Level.ERROR)]
    assert "RecursionError: too deep" in found.reason


def test_processes_and_one_process_say_the_same_in_the_same_order(release: Release) -> None:
    paths = ["models/llama/modeling_llama.py", "models/bert/modeling_bert.py"]
    told: list[str] = []
    parallel = survey(release, paths, jobs=2, advance=told.append)
    assert parallel == survey(release, paths[::-1], jobs=1)
    assert [entry.name for entry in parallel.rows] == ["bert", "llama"]
    assert sorted(told) == sorted(paths)
    assert pickle.loads(pickle.dumps(parallel)) == parallel


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report by hand in the place of the survey."""
    report = CoverageReport("5.23.0", (row("good"), row("bad|one", cores=0, diagnostics=(WARNING,))))
    monkeypatch.setattr(coverage, "survey", lambda *_, **__: report)


@pytest.mark.usefixtures("surveyed")
def test_the_table_and_its_totals() -> None:
    assert CliRunner().invoke(cli, ["coverage"]).stdout == """\
module                cores  sites  bottl.  prefix  lora  reft  prompt  invert.  why not
good                      1      2    ·       ·      ✓     ·      ·        ·     No layers.
bad|one                   0      2    ·       ·      ✓     ·      ·        ·     A mask that no rule claims.

transformers 5.23.0
     2  modules
     1  planned: cores and residual sites, rewritten, parses
     1  with attention cores
     2  with residual sites
     0  bottleneck
     0  prefix_tuning
     2  lora
     0  reft
     0  prompt_tuning
     0  invertible
"""


@pytest.mark.usefixtures("surveyed")
def test_the_markdown_escapes_what_would_end_a_cell() -> None:
    shown = CliRunner().invoke(cli, ["coverage", "--format", "markdown"]).stdout
    assert "| bad\\|one | 0 | 2 |  |  | ✓ |" in shown
    assert "| 1 | planned: cores and residual sites, rewritten, parses |" in shown


@pytest.mark.usefixtures("surveyed")
def test_the_schema_of_the_json_form_is_stable() -> None:
    document = json.loads(CliRunner().invoke(cli, ["coverage", "--format", "json"]).stdout)
    assert document["totals"]["planned"] == 1
    assert document["totals"]["methods"]["lora"] == 2
    assert document["totals"]["obstacles"] == {"P203": 1}
    assert document["modules"][0] == {
        "path": "models/x/modeling_good.py",
        "model_types": ["x"],
        "cores": 1,
        "residuals": 2,
        "planned": True,
        "methods": {
            "lora": {"supported": True, "reason": ""},
            "prefix_tuning": {"supported": False, "reason": "No layers."},
        },
        "diagnostics": [],
    }
