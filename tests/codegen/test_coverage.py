"""The survey of modules: rows, totals and what is made of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from click.testing import CliRunner

from adapter_codegen.cli import cli
from adapter_codegen.inspect import coverage
from adapter_codegen.inspect.coverage import CoverageReport, ModuleRow, modules_like, survey, survey_module
from adapter_codegen.inspect.standing import Standing, TypeRow, type_row
from adapter_codegen.model import Diagnostic, Level, Method, MethodSupport
from adapter_codegen.parse import read_auto_mappings
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.told.verdicts import NO_VERDICTS
from adapter_codegen.upstream import Release, open_release

WARNING = Diagnostic("P203", Level.WARNING, "A mask that no rule claims.", "Add a rule.")
NOTE = Diagnostic("P204", Level.NOTE, "Only a remark.", "Nothing to do.")
SUPPORT = (MethodSupport(Method.LORA, True, ""), MethodSupport(Method.PREFIX_TUNING, False, "No layers."))
PATH = "models/x/modeling_{}.py"


def of_type(
    name: str = "tiny",
    standing: Standing = Standing.PLANNED,
    stacks: Mapping[str, str] = MappingProxyType({"layers": ""}),
    reason: str = "No layers.",
) -> TypeRow:
    methods = SUPPORT if standing is Standing.PLANNED else ()
    return TypeRow(name, PATH.format(name), standing, methods, dict(stacks), reason)


def row(
    name: str = "tiny",
    cores: int = 1,
    residuals: int = 2,
    rewritten: bool = True,
    diagnostics: tuple[Diagnostic, ...] = (),
    types: tuple[TypeRow, ...] | None = None,
) -> ModuleRow:
    types = (of_type(name),) if types is None else types
    names = tuple(found.model_type for found in types)
    return ModuleRow(PATH.format(name), names, types, cores, residuals, rewritten, diagnostics)


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


@pytest.mark.parametrize(
    ("found", "complete", "is_complete"),
    [
        pytest.param(of_type(), 1, True, id="its only one"),
        pytest.param(of_type(stacks={"layers": "", "tower": "Not followed."}), 1, False, id="one of two"),
        pytest.param(of_type(standing=Standing.REFUSED), 0, False, id="that of a model that is refused"),
    ],
)
def test_complete_stacks_of_a_model_type(found: TypeRow, complete: int, is_complete: bool) -> None:
    assert (found.complete, found.is_complete) == (complete, is_complete)


def test_totals_count_each_model_type_of_a_module_and_each_of_its_stacks() -> None:
    types = (
        of_type("a"),
        of_type("b", stacks={"layers": "", "tower": "Not followed."}),
        of_type("d", Standing.NO_PLACE, {}),
        of_type("e", Standing.REFUSED, {}),
    )
    report = CoverageReport("1", (row(types=types),), (of_type("f", Standing.REFUSED, {}),))
    assert [found.model_type for found in report.types] == list("abdef")
    assert {standing: report.standing(standing) for standing in Standing} == {
        Standing.PLANNED: 2,
        Standing.REFUSED: 2,
        Standing.NO_PLACE: 1,
    }
    assert (report.stacks, report.complete_stacks) == (3, 2)
    assert report.types_supporting(Method.LORA) == 2
    assert report.types_supporting(Method.LORA, only_complete=True) == 1
    assert report.types_supporting(Method.PREFIX_TUNING) == 0


def test_names_are_those_of_modules_and_of_model_types(release: Release) -> None:
    assert "models/glm4v/modeling_glm4v.py" in modules_like(release, "glm4v_vis*")
    assert modules_like(release, "resnet") == ["models/resnet/modeling_resnet.py"]
    report = CoverageReport("1", (row(types=(of_type("tiny"), of_type("small"))), row("tower", types=(of_type("x"),))))
    assert [found.model_type for found in report.like("t*").types] == ["tiny", "x"]


@pytest.mark.parametrize(
    ("model_type", "standing", "stacks", "reason"),
    [
        ("llama", Standing.PLANNED, {"layers": True}, ""),
        (
            "xlnet",
            Standing.PLANNED,
            {"layer": True, "layer (second)": False},
            "layer (second): What `rel_attn` gives is added to a second stream",
        ),
        ("idefics3", Standing.PLANNED, {"vision_model.encoder.layers": True}, ""),
        ("llava", Standing.PLANNED, {}, ""),
        ("resnet", Standing.NO_PLACE, {}, "ResNetModel holds no module list"),
    ],
)
def test_rows_of_model_types(
    release: Release, model_type: str, standing: Standing, stacks: dict[str, bool], reason: str
) -> None:
    path = read_auto_mappings(release).entry(model_type).path
    found = type_row(path, plan_model(release, model_type, verdicts=NO_VERDICTS))
    assert (found.standing, found.reason[: len(reason)]) == (standing, reason)
    assert {name: not why for name, why in found.stacks.items()} == stacks


def test_obstacles_are_counted_once_per_module_and_notes_are_none() -> None:
    rows = (row(diagnostics=(WARNING, WARNING, NOTE)), row(diagnostics=(WARNING,)))
    assert CoverageReport("1", rows).obstacles() == [("P203", 2)]


def test_totals_count_modules_by_method() -> None:
    report = CoverageReport("1", (row(), row("other", cores=0)))
    assert (report.supporting(Method.LORA), report.supporting(Method.PREFIX_TUNING)) == (2, 0)
    assert CoverageReport("1", (row(types=(of_type("e", Standing.REFUSED),)),)).supporting(Method.LORA) == 0
    assert (report.with_cores, report.with_residuals) == (1, 2)


def test_real_modules_are_planned_and_rewritten(release: Release) -> None:
    found = survey_module(release, "models/llama/modeling_llama.py")
    assert (found.cores, found.residuals, found.planned) == (1, 2, True)
    assert "llama" in found.model_types
    assert all(found.supports(method) for method in (Method.BOTTLENECK, Method.PREFIX_TUNING, Method.LORA))


def test_a_module_without_attention_is_a_row_with_its_reason(release: Release) -> None:
    found = survey_module(release, "models/resnet/modeling_resnet.py")
    assert not found.planned and [one.standing for one in found.types] == [Standing.NO_PLACE]


def test_a_crash_in_one_module_is_a_row_that_asks_for_a_report(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(facts: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(coverage, "plan_module", fail)
    found = survey_module(release, "models/llama/modeling_llama.py")
    assert [(entry.code, entry.level) for entry in found.diagnostics] == [("X001", Level.ERROR)]
    types = {one.model_type: (one.standing, one.reason) for one in found.types}
    assert types["llama"][0] is Standing.REFUSED and "RecursionError: too deep" in types["llama"][1]


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
    bad = of_type("bad|one", Standing.REFUSED, {"layers": ""}, "A mask that no rule claims.")
    half = of_type("half", stacks={"layers": "", "tower": "Not followed."}, reason="Not followed.")
    rows = (row("good", types=(of_type("good"), half)), row("bad|one", cores=0, diagnostics=(WARNING,), types=(bad,)))
    report = CoverageReport("5.23.0", rows)
    monkeypatch.setattr(coverage, "survey", lambda *_, **__: report)


@pytest.mark.usefixtures("surveyed")
def test_the_table_and_its_totals() -> None:
    assert CliRunner().invoke(cli, ["coverage"]).stdout == """\
model type            stacks  bottl.  prefix  lora  reft  prompt  invert.  why not
bad|one                         ·       ·      ·     ·      ·        ·     A mask that no rule claims.
good                     1/1    ·       ·      ✓     ·      ·        ·     No layers.
half                     1/2    ·       ·      ✓     ·      ·        ·     Not followed.

transformers 5.23.0
     3  model types
     2  planned
     1  refused
     0  no place
     3  stacks of layers in planned ones
     2  of them complete: each layer has its sites, or no place for one
     0  bottleneck, in 0 of them with every stack complete
     0  prefix_tuning, in 0 of them with every stack complete
     2  lora, in 1 of them with every stack complete
     0  reft, in 0 of them with every stack complete
     0  prompt_tuning, in 0 of them with every stack complete
     0  invertible, in 0 of them with every stack complete
"""


@pytest.mark.usefixtures("surveyed")
def test_the_markdown_escapes_what_would_end_a_cell() -> None:
    shown = CliRunner().invoke(cli, ["coverage", "--format", "markdown"]).stdout
    assert "| bad\\|one |  |  |  |  |" in shown
    assert "| half | 1/2 |  |  | ✓ |" in shown
    assert "| 2 | planned |" in shown and "| lora | 2 | 1 |" in shown


@pytest.mark.usefixtures("surveyed")
def test_the_schema_of_the_json_form_is_stable() -> None:
    document = json.loads(CliRunner().invoke(cli, ["coverage", "--format", "json"]).stdout)
    assert document["totals"]["planned"] == 1
    assert document["totals"]["methods"]["lora"] == 1
    assert document["totals"]["obstacles"] == {"P203": 1}
    assert document["totals"]["stacks"] == {"all": 3, "complete": 2}
    assert document["totals"]["model_types"]["all"] == 3
    assert document["totals"]["model_types"]["no place"] == 0
    assert document["totals"]["model_types"]["methods"]["lora"] == {"any": 2, "complete": 1}
    assert document["model_types"][2] == {
        "model_type": "half",
        "path": "models/x/modeling_half.py",
        "standing": "planned",
        "methods": ["lora"],
        "stacks": [
            {"path": "layers", "complete": True, "reason": ""},
            {"path": "tower", "complete": False, "reason": "Not followed."},
        ],
        "reason": "Not followed.",
    }
    assert document["modules"][0] == {
        "path": "models/x/modeling_good.py",
        "model_types": ["good", "half"],
        "cores": 1,
        "residuals": 2,
        "planned": True,
        "methods": {
            "lora": {"supported": True, "reason": ""},
            "prefix_tuning": {"supported": False, "reason": "No layers."},
        },
        "diagnostics": [],
    }
