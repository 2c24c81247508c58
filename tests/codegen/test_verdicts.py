"""What the conformance checks found is heeded: a model that fails is not written, a method that fails is not offered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapter_codegen.cli import cli
from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.emit.manifest import generator_digest, load
from adapter_codegen.model import LEFT_TO_PARTS, Level, Method, ModelPlan, Refusal
from adapter_codegen.plan import plan_model
from adapter_codegen.plan.told import verdicts as module
from adapter_codegen.plan.told.verdicts import NO_VERDICTS, Verdicts, own_verdicts, read_verdicts
from adapter_codegen.upstream import Release

FAILS = {"check": "identity", "reason": "The outputs differ by 0.5."}


def content(version: str, **parts: object) -> str:
    return json.dumps({"transformers": version, "refused": {}, "dropped": {}, "untested": {}, **parts})


@pytest.fixture
def made_up(release: Release) -> Verdicts:
    return read_verdicts(
        content(
            release.version,
            refused={"bert": FAILS},
            dropped={"llama": {"prefix_tuning": {"check": "padding", "reason": "Real tokens move by 0.1."}}},
            untested={"mistral": "No instance could be made."},
        )
    )


def planned(release: Release, model_type: str, verdicts: Verdicts) -> ModelPlan:
    plan = plan_model(release, model_type, verdicts=verdicts)
    assert isinstance(plan, ModelPlan)
    return plan


# --- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["bert", "llama", "mistral"])
def test_nothing_changes_for_another_release_than_the_one_that_was_tried(
    release: Release, made_up: Verdicts, model_type: str
) -> None:
    older = Verdicts("5.0.0", made_up.refused, made_up.dropped, made_up.untested)
    assert plan_model(release, model_type, verdicts=older) == plan_model(release, model_type, verdicts=NO_VERDICTS)


def test_nothing_changes_for_a_model_without_an_entry(release: Release, made_up: Verdicts) -> None:
    assert planned(release, "gpt2", made_up) == planned(release, "gpt2", NO_VERDICTS)


def test_a_model_that_fails_is_refused_with_the_check_and_the_way_out(release: Release, made_up: Verdicts) -> None:
    refusal = plan_model(release, "bert", verdicts=made_up)
    assert isinstance(refusal, Refusal)
    (diagnostic,) = refusal.diagnostics
    assert (diagnostic.code, diagnostic.level) == ("C101", Level.ERROR)
    assert diagnostic.message == (
        "bert is understood, and what is generated fails the conformance check `identity`: The outputs differ by 0.5."
    )
    assert "`python -m conformance bert`" in diagnostic.remedy


def test_a_method_that_fails_is_unsupported_and_the_others_hold(release: Release, made_up: Verdicts) -> None:
    plan, before = planned(release, "llama", made_up), planned(release, "llama", NO_VERDICTS)
    reasons = {entry.method: entry.reason for entry in plan.methods if not entry.supported}
    assert reasons == {Method.PREFIX_TUNING: "It fails the check `padding`: Real tokens move by 0.1."}
    assert all(entry.supported for entry in before.methods)
    assert not any(entry.prefix_sites for entry in plan.classes)  # an edit that nothing runs would be dead
    kept, known = ({e.name: e.residual_sites for e in p.classes if e.residual_sites} for p in (plan, before))
    assert kept == known


def test_a_method_that_is_left_to_the_parts_stays_and_says_so(release: Release) -> None:
    """Not one that the plan, or a check, rules out: they give the reason."""
    dropped = {"llava": {"reft": {"check": "padding", "reason": "Real tokens move by 0.1."}}}
    left = {"llava": ["prompt_tuning", "reft"]}
    plan = planned(release, "llava", read_verdicts(content(release.version, dropped=dropped, left_to_parts=left)))
    found = {entry.method: (entry.supported, entry.reason) for entry in plan.methods}
    assert found[Method.PROMPT_TUNING] == (True, LEFT_TO_PARTS)
    assert found[Method.LORA] == (True, "")
    assert found[Method.REFT] == (False, "It fails the check `padding`: Real tokens move by 0.1.")


def test_a_head_that_becomes_another_is_not_converted_and_the_others_are(release: Release) -> None:
    lost = read_verdicts(content(release.version, unconverted={"llama": {"LlamaForCausalLM": FAILS}}))
    plan, before = planned(release, "llama", lost), planned(release, "llama", NO_VERDICTS)
    found, known = ({head.class_name: head.head_type for head in p.static_heads} for p in (plan, before))
    assert known["LlamaForCausalLM"] == "causal_lm"
    assert found == known | {"LlamaForCausalLM": ""}
    assert plan.flexible_heads == before.flexible_heads


def test_a_method_that_the_plan_does_not_support_keeps_its_own_reason(release: Release) -> None:
    dropped = read_verdicts(content(release.version, dropped={"vit": {"invertible": FAILS}}))
    assert planned(release, "vit", dropped).methods == planned(release, "vit", NO_VERDICTS).methods


def test_a_model_that_nobody_could_try_is_planned_with_a_warning(release: Release, made_up: Verdicts) -> None:
    plan, before = planned(release, "mistral", made_up), planned(release, "mistral", NO_VERDICTS)
    assert plan.methods == before.methods
    (warning,) = {*plan.diagnostics} - {*before.diagnostics}
    assert (warning.code, warning.level, warning.methods) == ("C102", Level.WARNING, ())
    assert warning.message == "No conformance check has tried mistral: No instance could be made."


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_that_comes_with_the_tool_can_be_read() -> None:
    assert own_verdicts().transformers


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param('{"transformers": "5.23.0", "refused": {}, "dropped": {}}', id="a part is missing"),
        pytest.param(content("5.23.0", clean=[]), id="a part that nobody knows"),
        pytest.param(content("5.23.0", refused={"bert": {"check": "identity"}}), id="no reason"),
        pytest.param(content("5.23.0", refused={"bert": "no"}), id="a text in place of an entry"),
        pytest.param(content("5.23.0", dropped={"bert": FAILS}), id="an entry in place of methods"),
        pytest.param(content("5.23.0", dropped={"bert": {"magic": FAILS}}), id="a method that does not exist"),
        pytest.param(content("5.23.0", untested={"bert": "one\ntwo"}), id="a reason of two lines"),
        pytest.param(content("5.23.0", untested={"bert": " "}), id="an empty reason"),
    ],
)
def test_a_file_that_is_not_of_the_form_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(CodegenError) as caught:
        read_verdicts(text)
    assert [one.code for one in caught.value.diagnostics] == ["C100"]
    assert "verdicts.json" in caught.value.diagnostics[0].message


def test_what_is_written_without_verdicts_is_not_taken_for_what_is_written_with_them() -> None:
    assert generator_digest(verdicts=False) != generator_digest()


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(made_up: Verdicts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """A command of the tool with the made-up verdicts, into a package folder."""
    monkeypatch.setattr(module, "own_verdicts", lambda: made_up)
    monkeypatch.setattr("adapter_codegen.plan.model.own_verdicts", lambda: made_up)

    def invoke(*arguments: str) -> Result:
        where = ["--output", str(tmp_path / "mine")] if arguments[0] == "add-model" else []
        return CliRunner().invoke(cli, [*arguments, *where], prog_name="adapter-codegen")

    return invoke


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release with four model types, one of which has no layers."""

    class Mappings:
        model_types = ("bert", "llama", "mistral", "resnet")

    monkeypatch.setattr("adapter_codegen.parse.read_auto_mappings", lambda release: Mappings())


def test_a_model_that_fails_is_not_written_and_ends_with_1(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("add-model", "bert")
    assert result.exit_code == 1
    assert "bert was refused:\nerror[C101]: " in result.stderr
    assert not (tmp_path / "mine" / "bert").exists()


def test_a_method_that_fails_is_told_in_the_manifest(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("add-model", "llama")
    assert result.exit_code == 0
    assert "llama: bottleneck, lora, reft, prompt_tuning, invertible (not prefix_tuning: see" in result.stderr
    manifest = load(tmp_path / "mine", "manifest.json")
    assert (
        manifest.models["llama"].methods["prefix_tuning"] == "It fails the check `padding`: Real tokens move by 0.1."
    )


def test_a_model_that_nobody_could_try_is_written_and_warned_of(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("add-model", "mistral", "--quiet")
    assert result.exit_code == 0
    assert "warning[C102]: No conformance check has tried mistral" in result.stderr
    assert (tmp_path / "mine" / "mistral").is_dir()


@pytest.mark.usefixtures("small")
def test_all_leaves_out_what_fails_and_what_nobody_could_try_and_ends_with_0(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("add-model", "--all")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "mine").iterdir() if (path / "adapter_model.py").is_file()} == {"llama"}
    assert "1 model type left out, which no conformance check could try." in result.stderr
    assert "1 model type refused, which fail a conformance check: see plan/verdicts.json." in result.stderr
    assert "1 model type cannot be planned" in result.stderr


@pytest.mark.usefixtures("small")
def test_without_verdicts_all_that_can_be_planned_is_written(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("add-model", "--all", "--without-verdicts")
    assert result.exit_code == 0, result.output
    written = {path.name for path in (tmp_path / "mine").iterdir() if (path / "adapter_model.py").is_file()}
    assert written == {"bert", "llama", "mistral"}
    assert "fails the check" not in (tmp_path / "mine" / "manifest.json").read_text("utf-8")


def test_explain_names_the_check_and_shows_the_plan_on_request(run: Callable[..., Result]) -> None:
    assert "`identity`" in run("explain", "bert").stdout
    assert "BertSelfAttention" in run("explain", "bert", "--without-verdicts").stdout
    assert "It fails the check `padding`" in run("explain", "llama").stdout


def test_a_release_that_was_not_tried_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "own_verdicts", lambda: Verdicts("4.0.0"))
    result = CliRunner().invoke(cli, ["add-model", "llama", "--dry-run", "--output", str(tmp_path)])
    assert "The conformance checks have tried transformers 4.0.0; what fails them in" in result.stderr
