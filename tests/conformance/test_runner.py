"""A run over many models: what becomes of one that crashes, hangs or has no instance, and that a run goes on where it stopped."""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlavaForConditionalGeneration

from adapter_runtime.composition import Average
from adapter_runtime.errors import InvalidCompositionError
from conformance.cells import described, outcome
from conformance.checks.identity import initialised_is_upstream
from conformance.compared import note, taken
from conformance.reasons import DoesNotApply, Reason
from conformance.results import ModelResult, Result, ResultFile, compared_in, stable
from conformance.runner import run_models
from conformance.subjects import BATCH, method_subjects

CELL = Result("sound", "decoder", "lora", "liveness")


def _work(model_type: str, report: Any) -> None:
    report({"lora": "", "reft": "no layer"})
    if model_type == "untested":
        report("untested: KeyError: 'vocab_size'")
        return
    report("liveness of lora on decoder")
    if model_type == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if model_type == "raises":
        raise ValueError("what is wrong")
    while model_type == "hangs":
        pass
    report(CELL)


@pytest.fixture(scope="module")
def results() -> dict[str, ModelResult]:
    names = ["sound", "untested", "crash", "raises", "hangs"]
    return {result.model_type: result for result, _ in run_models(names, _work, jobs=5, limit=2)}


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("sound", "ran", ""),
        ("untested", "untested", "KeyError: 'vocab_size'"),
        ("crash", "crash", "the process ended with SIGKILL in liveness of lora on decoder"),
        ("raises", "crash", "ValueError: what is wrong (test_runner.py, _work) in liveness of lora on decoder"),
        ("hangs", "time-out", "not done after 2 s in liveness of lora on decoder"),
    ],
)
def test_each_end_is_a_result(results: dict[str, ModelResult], name: str, status: str, text: str) -> None:
    assert (results[name].status, results[name].text) == (status, text)


def test_what_was_compared_is_in_the_line_of_a_model() -> None:
    cells = (
        replace(CELL, compared=("left",)),
        replace(CELL, method="loreft", compared=("right", "left")),
        replace(CELL, check="removal"),
    )
    assert compared_in(cells) == {"decoder": {"liveness": ["left", "right"]}}
    line = ModelResult("sound", "ran", cells=cells, compared=compared_in(cells)).to_json()
    assert line["compared"] == {"decoder": {"liveness": ["left", "right"]}}
    assert ModelResult.from_json(line).to_json() == line
    assert "compared" not in ModelResult("sound", "ran", cells=(CELL,)).to_json()


def test_what_upstream_no_longer_takes_is_missing_in_what_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    (subject,) = method_subjects("llava")
    subject = replace(subject, architecture="LlavaForConditionalGeneration")
    outcome(lambda: None, lambda: initialised_is_upstream(subject), ())
    assert {what.partition(",")[0] for what in taken()} >= {"without images", "two images in a row"}
    forward = LlavaForConditionalGeneration.forward

    @functools.wraps(forward)
    def refusing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(kwargs.get("pixel_values", ())) > BATCH:
            raise ValueError("one image per row")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlavaForConditionalGeneration, "forward", refusing)
    outcome(lambda: None, lambda: initialised_is_upstream(subject), ())
    assert {what.partition(",")[0] for what in taken()} == {"without images"}


def test_what_a_check_compared_before_it_is_not_that_of_another() -> None:
    note("left behind")
    outcome(lambda: None, lambda: note("own"), ())
    assert taken() == ("own",)


def test_what_a_model_did_before_its_end_is_kept(results: dict[str, ModelResult]) -> None:
    assert results["sound"].cells == (CELL,)
    assert results["hangs"].planned == {"lora": "", "reft": "no layer"}


def test_only_what_ran_without_a_failure_is_clean() -> None:
    assert ModelResult("a", "ran", cells=(CELL,)).clean
    assert not ModelResult("a", "ran", cells=(Result("a", "", "", "identity", "differs"),)).clean
    assert not ModelResult("a", "time-out", cells=(CELL,)).clean


def test_a_file_is_read_as_it_was_written_and_sorted(tmp_path: Path) -> None:
    cells = (
        CELL,
        Result("b", "encoder", "", "identity", "it differs"),
        Result("b", "x", "lora", "merge", "NO_MASK", False),
    )
    file = ResultFile(tmp_path / "results.jsonl", "5.23.0")
    for name in ("b", "a"):
        owned = tuple(
            Result(name, *[getattr(cell, key) for key in ("subject", "method", "check", "text", "ran")])
            for cell in cells
        )
        file.add(ModelResult(name, "ran", cells=owned, planned={"lora": ""}))
    again = ResultFile(file.path, "5.23.0")
    assert again.models == file.models
    assert list(again.models) == ["a", "b"]


def test_results_of_another_release_are_not_gone_on_with(tmp_path: Path) -> None:
    ResultFile(tmp_path / "results.jsonl", "5.22.0").add(ModelResult("a", "ran"))
    with pytest.raises(ValueError, match=r"holds results for transformers 5\.22\.0"):
        ResultFile(tmp_path / "results.jsonl", "5.23.0")


def test_a_text_is_the_same_in_each_run() -> None:
    assert stable("\nat 0x7f31 by up to 3.21e-05, shape (3, 8)\nmore") == "at 0x… by up to …, shape (3, 8)"


def _raise(error: Exception) -> Any:
    def run() -> None:
        raise error

    return run


def test_a_reason_that_the_check_may_give_is_no_failure() -> None:
    found = _raise(DoesNotApply(Reason.WINDOW))
    assert outcome(lambda: None, found, (Reason.WINDOW,)) == ("WINDOW", False)


def test_a_reason_out_of_another_line_of_the_table_is_a_failure() -> None:
    text, ran = outcome(lambda: None, _raise(DoesNotApply(Reason.WINDOW)), ())
    assert ran
    assert text.startswith("harness: WINDOW")


def test_a_failure_says_whose_it_is() -> None:
    assert outcome(lambda: None, _raise(KeyError("a")), ()) == ("harness: KeyError: 'a'", True)
    assert outcome(lambda: None, _raise(AssertionError("it differs")), ()) == ("it differs", True)
    with pytest.raises(InvalidCompositionError) as refused:
        Average("a", "b", weights=[1.0])
    assert described(refused.value).startswith("InvalidCompositionError: ")


def test_the_table_of_reasons_is_closed_and_every_reason_is_used() -> None:
    folder = Path(__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py") if path.name != Path(__file__).name]
    assert [reason.name for reason in Reason if not any(f"Reason.{reason.name}" in text for text in sources)] == []


def test_a_text_of_ones_own_is_no_reason() -> None:
    text, ran = outcome(lambda: "it is hard to check", lambda: None, ())
    assert ran
    assert text.startswith("harness: ")
