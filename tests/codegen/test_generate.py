"""A model that fails is refused, and the others of its batch are written all the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from adapter_codegen.cli import cli
from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.emit import verify
from adapter_codegen.emit.layout import Target
from adapter_codegen.generate import POOL_FROM, add_models, generate
from adapter_codegen.model import Diagnostic, Level, ModelPlan
from adapter_codegen.upstream import Release, open_release

SMALL = ("bert", "distilbert", "gpt2", "llama", "mistral", "qwen2")
AUTO = ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py")


def release_of(release: Release, folder: Path, model_types: Sequence[str], broken: str) -> Release:
    """The part of a release that holds `model_types`; the file of `broken` is no Python."""
    for path in (
        "__init__.py",
        *(f"models/auto/{name}" for name in AUTO),
        *(f"models/{name}/{kind}_{name}.py" for name in model_types for kind in ("modeling", "configuration")),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        is_broken = path == f"models/{broken}/modeling_{broken}.py"
        (folder / path).write_text(release.read(path) + ("def (:\n" if is_broken else ""))
    return open_release(folder)


@pytest.fixture
def failing_bert(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A check of what was written fails for BERT."""

    def check(facts: object, plan: ModelPlan, files: object) -> None:
        if plan.model_type == "bert":
            raise CodegenError(Diagnostic("V106", Level.ERROR, "The copy differs.", "Please report it."))

    monkeypatch.setattr(verify, "verify_model", check)
    return monkeypatch


@pytest.mark.skipif(len(SMALL) < POOL_FROM, reason="would not run in processes")
def test_in_processes_one_broken_model_stops_no_other(release: Release, tmp_path: Path) -> None:
    partial = release_of(release, tmp_path / "transformers", SMALL, broken="gpt2")
    done: list[str] = []
    generated = generate(partial, SMALL, progress=done.append)
    assert [refusal.model_type for refusal in generated.refusals] == ["gpt2"]
    assert [plan.model_type for plan in generated.plans] == [name for name in SMALL if name != "gpt2"]
    assert sorted(done) == sorted(SMALL)
    assert "generated/adapter_models/llama/modeling_llama.py" in generated.files
    assert not any("gpt2" in path for path in generated.files)


@pytest.mark.usefixtures("failing_bert")
def test_a_check_that_fails_refuses_its_model_alone(release: Release, tmp_path: Path) -> None:
    generated = add_models(release, ["bert", "llama"], Target(tmp_path))
    assert [(one.model_type, one.diagnostics[0].code) for one in generated.refusals] == [("bert", "V106")]
    assert [plan.model_type for plan in generated.plans] == ["llama"]


def test_a_crash_refuses_its_model_and_asks_for_a_report(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("seven")

    monkeypatch.setattr(verify, "verify_model", fail)
    (refusal,) = add_models(release, ["llama"], Target(tmp_path)).refusals
    (diagnostic,) = refusal.diagnostics
    assert diagnostic.code == "X001"
    assert diagnostic.message.startswith("Internal error: ZeroDivisionError: seven (test_generate.py:")
    assert "bug of adapter-codegen: please report it" in diagnostic.remedy


def test_a_wrong_override_stops_everything(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise Problem.OVERRIDE_IDLE.error(model_type="llama", what="nothing")

    monkeypatch.setattr("adapter_codegen.plan.plan_model", wrong)
    with pytest.raises(CodegenError, match="changes nothing"):
        generate(release, ["llama"])


@pytest.mark.usefixtures("failing_bert")
def test_one_model_alone_ends_with_1_and_its_message(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "adapter-codegen"\n')
    result = CliRunner().invoke(cli, ["add-model", "bert", "--root", str(tmp_path)])
    assert result.exit_code == 1
    assert "bert was refused:\nerror[V106]: The copy differs." in result.stderr
    assert not (tmp_path / "generated/adapter_models/bert").exists()
