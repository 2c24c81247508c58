"""The table of the report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.planned import register_beside, write_everything
from conformance.reasons import Reason
from conformance.report import table
from conformance.results import ModelResult, Result, summary

RESULTS = [
    Result("llama", "LlamaModel", "", "identity"),
    Result("llama", "decoder", "lora", "liveness"),
    Result("llama", "decoder", "lora", "zero start", "AssertionError: it differs"),
    Result("llama", "decoder", "prefix_tuning", "liveness"),
    Result("llama", "decoder", "prefix_tuning", "zero start", Reason.NO_ZERO_START.name, ran=False),
    Result("bert", "encoder", "prefix_tuning", "zero start", Reason.NO_ZERO_START.name, ran=False),
]


def test_table_has_a_row_per_method_and_a_column_per_check() -> None:
    lines = table(RESULTS).splitlines()
    assert "| method | on | liveness | zero start |" in lines
    assert "| lora | decoder | ok | FAIL |" in lines
    assert "identity: LlamaModel ok" in lines


def test_cell_that_does_not_apply_points_to_its_reason() -> None:
    text = table(RESULTS)
    assert "| prefix_tuning | decoder | ok | (1) |" in text
    assert f"1. {Reason.NO_ZERO_START.value}" in text


def test_reason_is_listed_once_for_all_models() -> None:
    assert table(RESULTS).count(Reason.NO_ZERO_START.value) == 1


def test_summary_counts_what_ran_and_what_failed() -> None:
    results = [
        ModelResult(name, "ran", cells=tuple(cell for cell in RESULTS if cell.model_type == name))
        for name in ("llama", "bert")
    ]
    assert summary(results) == "2 model types, 1 clean; 4 checks ran, 1 failed, 2 do not apply"


def test_what_is_refused_is_generated_for_its_checks() -> None:
    """The way out that `add-model` names: MRA is refused, as what is taken for a projection of its mixer is none."""
    status = subprocess.run(
        [sys.executable, "-m", "conformance", "mra", "--check", "roles"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert status.returncode == 1
    assert "reaches no other position" in status.stdout


def test_a_run_from_nothing_tries_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it cannot lift a refusal by not having tried it."""
    asked: list[list[str]] = []

    def add_models(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        asked.append(command)
        package = Path(command[command.index("--output") + 1])
        package.mkdir(parents=True)
        (package / "manifest.json").touch()
        return subprocess.CompletedProcess(command, 1)  # some are refused by the plan

    monkeypatch.setattr(subprocess, "run", add_models)
    assert write_everything(tmp_path) == write_everything(tmp_path)  # what stands there is kept
    (command,) = asked
    assert "--all" in command and "--without-verdicts" in command


def test_what_the_plan_refuses_ends_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="rwkv"):
        register_beside(["rwkv"], tmp_path)
    assert "P106" in capfd.readouterr().err
