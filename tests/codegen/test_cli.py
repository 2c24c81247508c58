"""The commands as a user meets them: what they print, what they write, how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adapter_codegen.cli import cli
from adapter_codegen.inspect.check import Change as UpstreamChange
from adapter_codegen.inspect.check import CheckReport, Drift, Finding, Kind
from adapter_codegen.model import Diagnostic, Level, Refusal
from adapter_codegen.upstream import open_release

MODELING = "generated/adapter_models/llama/modeling_llama.py"
VERSION = open_release().version


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="adapter-codegen")


def checkout(folder: Path) -> Path:
    (folder / "pyproject.toml").write_text('[project]\nname = "adapter-codegen"\n')
    return folder


def tree(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with Llama in it. Tests restore what they change."""
    root = checkout(tmp_path_factory.mktemp("checkout"))
    result = run("add-model", "llama", "--root", str(root))
    assert result.exit_code == 0, result.output
    return root


@pytest.fixture(scope="module", autouse=True)
def _unchanging_tool() -> Iterator[None]:
    """Somebody who edits the tool while the tests run is not drift."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adapter_codegen.generate.generator_digest", lambda *_: "0")
        patch.setattr("adapter_codegen.inspect.check.generator_digest", lambda: "0")
        yield


@pytest.fixture
def restored(generated: Path) -> Iterator[Path]:
    before = tree(generated)
    yield generated
    for path in tree(generated).keys() - before.keys():
        (generated / path).unlink()
    for path, content in before.items():
        (generated / path).parent.mkdir(parents=True, exist_ok=True)
        (generated / path).write_bytes(content)


# --- what must not happen -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--dry-run", "--diff"])
def test_add_model_with_a_preview_option_writes_nothing(tmp_path: Path, option: str) -> None:
    before = tree(checkout(tmp_path))
    result = run("add-model", "llama", option, "--root", str(tmp_path))
    assert result.exit_code == 0
    assert MODELING in result.stdout
    assert tree(tmp_path) == before


@pytest.mark.parametrize("option", ["--dry-run", "--diff"])
def test_remove_model_with_a_preview_option_writes_nothing(generated: Path, option: str) -> None:
    before = tree(generated)
    result = run("remove-model", "llama", option, "--root", str(generated))
    assert result.exit_code == 0
    assert MODELING in result.stdout
    assert tree(generated) == before


def test_the_help_imports_none_of_the_heavy_packages() -> None:
    code = (
        "import sys; from adapter_codegen.cli import cli; cli(['--help'], standalone_mode=False);"
        "print(sorted({'libcst', 'jinja2', 'black', 'rich', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_a_hand_edited_file_is_not_written_over_unasked(restored: Path) -> None:
    edited = restored / MODELING
    edited.write_text("# mine\n")
    refused = run("add-model", "llama", "--root", str(restored))
    assert (refused.exit_code, edited.read_text()) == (2, "# mine\n")
    assert "error[E102]" in refused.stderr and "--overwrite" in refused.stderr
    assert run("add-model", "llama", "--overwrite", "--root", str(restored)).exit_code == 0
    assert edited.read_text() != "# mine\n"


# --- errors ---------------------------------------------------------------------------------------------------------


def test_unknown_model_types_are_all_named_with_their_nearest_names(tmp_path: Path) -> None:
    result = run("add-model", "lama", "brt", "--root", str(checkout(tmp_path)))
    assert result.exit_code == 2
    assert f"error[U110]: transformers {VERSION} has no model type 'lama'." in result.stderr
    assert f"error[U110]: transformers {VERSION} has no model type 'brt'." in result.stderr
    assert "= help: Did you mean llama" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add-model", "--dry-run"], "Name a model type, or give --existing or --all."),
        (["remove-model"], "Missing argument 'MODEL_TYPE...'"),
        (["coverage", "--jobs", "0"], "0 is not in the range x>=1"),
        (["explain", "llama", "--format", "pdf"], "'pdf' is not one of"),
        (["coverage", "--filter", "lama"], "nothing is named like 'lama'."),
        (["chekc"], "No such command 'chekc'."),
    ],
    ids=[
        "nothing to add",
        "nothing to remove",
        "no processes",
        "an unknown format",
        "an empty filter",
        "a misspelt command",
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_outside_of_a_checkout_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("check")
    assert result.exit_code == 2
    assert "error[E106]" in result.stderr and "--output FOLDER" in result.stderr


@pytest.mark.parametrize("verbose", [False, True], ids=["asks for the traceback", "shows it under --verbose"])
def test_an_internal_error_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, verbose: bool) -> None:
    def fail(spec: object) -> None:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr("adapter_codegen.upstream.open_release", fail)
    result = run("explain", "llama", *(["--verbose"] if verbose else []))
    assert result.exit_code == 2
    assert "internal error: ZeroDivisionError: seven" in result.stderr
    assert "bug in adapter-codegen. Please report it" in result.stderr
    assert ("Traceback" in result.stderr) is verbose


def test_a_refused_model_is_told_with_its_place_and_ends_with_1(generated: Path) -> None:
    result = run("add-model", "xlstm", "--dry-run", "--root", str(generated))
    assert result.exit_code == 1
    assert "xlstm was refused:\nerror[P" in result.stderr
    assert "--> models/xlstm/modeling_xlstm.py:" in result.stderr and "^^^" in result.stderr


# --- add, remove, check ---------------------------------------------------------------------------------------------


def test_a_second_run_changes_nothing(generated: Path) -> None:
    result = run("add-model", "llama", "--root", str(generated))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "unchanged." in result.stderr


def test_quiet_leaves_only_results(generated: Path) -> None:
    result = run("add-model", "llama", "--quiet", "--root", str(generated))
    assert (result.exit_code, result.output) == (0, "")


def test_without_a_checkout_a_package_folder_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert run("add-model", "llama", "--output", str(folder)).exit_code == 0
    assert (folder / "llama" / "modeling_llama.py").is_file()
    assert not (tmp_path / "docs").exists() and not (folder / "docs").exists()


def test_a_diff_can_be_applied_as_a_patch(restored: Path) -> None:
    (restored / MODELING).write_text("# mine\n")
    result = run("add-model", "llama", "--diff", "--root", str(restored))
    assert f"--- a/{MODELING}\n+++ b/{MODELING}\n@@ -1 +1," in result.stdout
    assert "\n-# mine\n" in result.stdout


def test_remove_model_takes_everything_out_again(restored: Path) -> None:
    result = run("remove-model", "llama", "--root", str(restored))
    assert result.exit_code == 0
    assert f"deleted {MODELING}" in result.stdout
    assert not (restored / MODELING).parent.exists()
    assert run("check", "--root", str(restored)).exit_code == 0


def test_check_in_step_ends_with_0(generated: Path) -> None:
    result = run("check", "--root", str(generated))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"In step with transformers {VERSION}.\n")


def test_check_tells_the_kinds_of_drift_apart(restored: Path) -> None:
    (restored / MODELING).write_text("# mine\n")
    (restored / "tests/generated/test_llama.py").unlink()
    (restored / "generated/adapter_models/stray.py").write_text("")
    result = run("check", "--root", str(restored))
    assert result.exit_code == 1
    assert result.stdout == (
        f"hand-edited {MODELING}\n"
        "orphan      generated/adapter_models/stray.py\n"
        "missing     tests/generated/test_llama.py\n"
    )
    assert f"Not in step with transformers {VERSION}: 1 missing, 1 orphan, 1 hand-edited." in result.stderr
    assert "To mend it: adapter-codegen add-model --existing --overwrite" in result.stderr


def test_check_reports_to_github_and_to_programs(restored: Path) -> None:
    (restored / MODELING).write_text("# 100% mine\n")
    told = run("check", "--output-format", "github", "--diff", "--root", str(restored)).stdout
    assert told.startswith(f"::error file={MODELING},line=1,title=adapter-codegen%3A hand-edited::{MODELING} is hand-")
    assert told.count("\n") == 1 and "%0A-# 100%25 mine" in told
    document = json.loads(run("check", "--output-format", "json", "--root", str(restored)).stdout)
    assert document == {
        "in_step": False,
        "generated_from": VERSION,
        "compared_with": VERSION,
        "findings": [{"kind": "hand-edited", "path": MODELING}],
        "drifts": [],
        "refusals": [],
        "command": "adapter-codegen add-model --existing --overwrite",
    }


@pytest.mark.parametrize("shown_as", ["text", "json", "github"])
def test_a_release_that_no_longer_matches_ends_with_3(
    generated: Path, monkeypatch: pytest.MonkeyPatch, shown_as: str
) -> None:
    error = Diagnostic("P101", Level.ERROR, "No layer list.", "Write a rule.")
    drift = Drift("llama", "models/llama/modeling_llama.py", UpstreamChange.SEMANTIC)
    report = CheckReport(VERSION, "9.0.0", (), (drift,), (Refusal("llama", (error,)),))
    monkeypatch.setattr("adapter_codegen.inspect.check.check", lambda *_, **__: report)
    result = run("check", "--output-format", shown_as, "--root", str(generated))
    assert result.exit_code == 3
    assert "No layer list." in result.stdout and "models/llama/modeling_llama.py" in result.stdout


@pytest.mark.parametrize(
    ("generated_from", "code", "expected"),
    [
        pytest.param(VERSION, "P101", 1, id="of the tree's own release: the tool refuses it"),
        pytest.param("9.0.0", "P101", 3, id="of another release: upstream no longer matches"),
        pytest.param(VERSION, "V106", 2, id="by a bug of the tool"),
        pytest.param("9.0.0", "X001", 2, id="by a bug of the tool, at another release"),
    ],
)
def test_how_a_check_ends_that_meets_a_refused_model(
    generated: Path, monkeypatch: pytest.MonkeyPatch, generated_from: str, code: str, expected: int
) -> None:
    error = Diagnostic(code, Level.ERROR, "No.", "Write a rule.")
    report = CheckReport(generated_from, VERSION, (), (), (Refusal("llama", (error,)),))
    monkeypatch.setattr("adapter_codegen.inspect.check.check", lambda *_, **__: report)
    result = run("check", "--root", str(generated))
    assert result.exit_code == expected
    assert ("please report" in result.stderr) == (expected == 2)
    assert ("remove-model" in result.stderr) == (expected != 2)


def test_drift_is_told_per_model_with_the_methods_it_costs_and_the_command_for_that_release(
    generated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift = Drift("llama", "models/llama/modeling_llama.py", UpstreamChange.SEMANTIC, lost=("prefix_tuning",))
    report = CheckReport("9.0.0", VERSION, (Finding(Kind.STALE, MODELING, ""),), (drift,))
    monkeypatch.setattr("adapter_codegen.inspect.check.check", lambda *_, **__: report)
    result = run("check", "--from", f"transformers=={VERSION}", "--root", str(generated))
    assert result.exit_code == 1
    assert "llama: models/llama/modeling_llama.py changed in what it does; loses prefix_tuning\n" in result.stdout
    assert "Generated from transformers 9.0.0, and since: 1 model changed in what it does." in result.stderr
    assert f"To mend it: adapter-codegen add-model --existing --from transformers=={VERSION}" in result.stderr


# --- list, explain, coverage ----------------------------------------------------------------------------------------


def test_list_knows_what_is_supported_without_planning(generated: Path) -> None:
    result = run("list", "--format", "json", "--filter", "llama*", "--root", str(generated))
    document = json.loads(result.stdout)
    assert (result.exit_code, document["transformers"]) == (0, VERSION)
    by_name = {entry["model_type"]: entry for entry in document["models"]}
    assert by_name["llama"]["status"] == "supported" and "lora" in by_name["llama"]["methods"]
    assert by_name["llama"]["stacks"] == [{"path": "layers", "complete": True, "reason": ""}]
    known = {
        "model_type": "llama4",
        "status": "known",
        "methods": [],
        "left_to_parts": [],
        "reason": "",
        "parts": [],
        "stacks": [],
    }
    assert by_name["llama4"] == known


def test_list_plans_what_is_only_known_on_request(generated: Path) -> None:
    result = run("list", "--plan", "--jobs", "1", "--filter", "xlstm", "--root", str(generated))
    assert result.stdout.splitlines()[0].split() == ["model", "type", "status", "why"]
    assert result.stdout.splitlines()[1].split()[:2] == ["xlstm", "refused"]
    assert "1 model type: 1 refused" in result.stderr


def test_list_works_outside_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("list", "--filter", "bert").stdout == "bert  known\n"


def test_explain_shows_upstreams_line_beside_the_emitted_one() -> None:
    result = run("explain", "llama")
    assert result.exit_code == 0
    shown = [line.split("- ", 1)[1] for line in result.stdout.splitlines() if "   - " in line]
    assert shown == ["hidden_states = residual + hidden_states"] * 2
    assert "+ hidden_states = self.attention_adapters(hidden_states, residual, None)" in result.stdout


def test_explain_of_a_refused_model_shows_why_and_ends_with_1() -> None:
    result = run("explain", "xlstm", "--format", "json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["supported"] is False and document["diagnostics"][0]["remedy"]


def test_piped_output_has_no_colours_no_wrapping_and_no_trailing_blanks() -> None:
    command = [sys.executable, "-m", "adapter_codegen", "explain", "llama"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in shown
    assert not [line for line in shown.splitlines() if line != line.rstrip()]
    assert max(map(len, shown.splitlines())) > 100
