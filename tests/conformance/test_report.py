"""The table of the report."""

from __future__ import annotations

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
