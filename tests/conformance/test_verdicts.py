"""What follows from results: refused, dropped, untested; the file that the generator reads; the page."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from adapter_codegen.model import Method
from adapter_codegen.plan.told.verdicts import read_verdicts
from conformance import refused_by_plan
from conformance.methods import FAMILIES
from conformance.page import DATA, PAGE, data, page
from conformance.reasons import Reason
from conformance.report import RESULTS
from conformance.results import ModelResult, Result, ResultFile
from conformance.verdicts import VERDICTS, Failed, verdict_of, verdicts_text

RELEASE = "5.23.0"
PLANNED = dict.fromkeys(FAMILIES, "") | {"invertible": "no table of tokens"}


def result(*cells: tuple[str, str, str], status: str = "ran", text: str = "") -> ModelResult:
    """Of cells (method, check, text)."""
    made = tuple(Result("m", "decoder", method, check, found) for method, check, found in cells)
    return ModelResult("m", status, text, made, PLANNED)


SOUND = (
    ("", "identity", ""),
    *((method, "liveness", "") for family, method in FAMILIES.items() if not PLANNED[family]),
)


def test_a_model_whose_checks_hold_has_every_planned_family() -> None:
    verdict = verdict_of(result(*SOUND))
    assert verdict.clean
    assert verdict.families == tuple(family for family in FAMILIES if family != "invertible")
    assert verdict.unplanned == {"invertible": "no table of tokens"}


def test_a_check_that_concerns_no_method_refuses_the_model() -> None:
    verdict = verdict_of(result(*SOUND, ("", "roles", "it differs"), ("lora", "merge", "it differs")))
    assert verdict.refused.check == "roles"
    assert not verdict.clean
    assert not verdict.families


def test_checks_of_a_method_drop_its_family() -> None:
    verdict = verdict_of(result(*SOUND, ("lora", "merge", "first"), ("lora", "padding", "second")))
    assert verdict.clean
    assert {family: (failed.check, failed.reason) for family, failed in verdict.dropped.items()} == {
        "lora": ("merge", "decoder: first")
    }
    assert "lora" not in verdict.families


def test_a_family_of_which_no_check_ran_is_dropped() -> None:
    tried = tuple(cell for cell in SOUND if cell[0] != "lora")
    left_out = Result("m", "decoder", "lora", "liveness", "UNKNOWN_ORDER", ran=False)
    made = result(*tried)
    verdict = verdict_of(replace(made, cells=(*made.cells, left_out)))
    assert {family: failed.check for family, failed in verdict.dropped.items()} == {"lora": "untested"}
    assert Reason.UNKNOWN_ORDER.value in verdict.dropped["lora"].reason


def test_a_mixture_drops_the_families_of_its_parts() -> None:
    verdict = verdict_of(result(*SOUND, ("prefix+par_bn", "padding", "it differs")))
    assert set(verdict.dropped) == {"prefix_tuning", "bottleneck"}


def test_a_model_of_which_no_method_holds_is_refused() -> None:
    failing = [(method, "liveness", "dead") for method in FAMILIES.values()]
    assert verdict_of(result(*failing)).refused.check == "liveness"


@pytest.mark.parametrize("status", ["crash", "time-out"])
def test_a_model_that_does_not_come_to_its_end_is_refused(status: str) -> None:
    verdict = verdict_of(result(*SOUND, status=status, text="SIGSEGV in merge"))
    assert (verdict.refused.check, verdict.refused.reason) == (status, "SIGSEGV in merge")


def test_a_model_without_an_instance_is_untested() -> None:
    assert verdict_of(result(status="untested", text="KeyError")).untested == "KeyError"


def test_the_generator_reads_what_is_written() -> None:
    results = [
        ModelResult("b", "crash", "SIGSEGV", planned=PLANNED),
        ModelResult("a", "untested", "no\ninstance", planned=PLANNED),
        replace(result(*SOUND, ("lora", "merge", 'a "quoted" <reason>')), model_type="c"),
    ]
    text = verdicts_text(results, RELEASE)
    verdicts = read_verdicts(text)
    assert verdicts.refused["b"].check == "crash"
    assert verdicts.untested == {"a": "no instance"}
    (dropped,) = verdicts.dropped["c"].values()
    assert dropped.reason == 'decoder: a "quoted" <reason>'
    assert json.loads(text)["transformers"] == RELEASE
    assert sum('"b":' in line for line in text.splitlines()) == 1, "one line per model"


def test_a_family_that_the_models_inside_refuse_is_left_to_them() -> None:
    """It is not dropped, as others may take it. One that is not planned, or not tried for another reason, is not left to anybody."""
    method = FAMILIES["prompt_tuning"]
    others = tuple(cell for cell in SOUND if cell[0] != method)
    refused = tuple(
        Result("a", "decoder", method, check, Reason.PARTS_REFUSE.name, ran=False) for check in ("added", "removal")
    )
    made = result(*others)
    found = replace(made, model_type="a", cells=(*made.cells, *refused))
    verdicts = read_verdicts(verdicts_text([found, replace(result(*SOUND), model_type="b")], RELEASE))
    assert verdicts.left_to_parts == {"a": frozenset({Method.PROMPT_TUNING})}
    assert verdicts.dropped == {}


def test_nothing_to_say_is_an_empty_file() -> None:
    assert read_verdicts(verdicts_text([], RELEASE)).refused == {}


def test_the_page_has_a_row_for_each_loss_and_each_refusal() -> None:
    results = [
        replace(result(*SOUND, ("lora", "merge", "a|b")), model_type="lost"),
        ModelResult("gone", "crash", "SIGSEGV", planned=PLANNED),
    ]
    text = page(results, RELEASE, {"odd": "It has no layers."})
    assert "| gone | crash | SIGSEGV |" in text
    assert "1 model types are refused before anything is generated" in text and "| odd | It has no layers. |" in text
    assert r"| lost | lora | merge | decoder: a\|b |" in text
    rows = json.loads(data(results, {"odd": "It has no layers."}).partition("=")[2].rstrip().rstrip(";"))
    assert ["gone", "all", "refused", "crash", "SIGSEGV"] in rows
    assert ["odd", "all", "not planned", "", "It has no layers."] in rows
    assert ["lost", "invertible", "not planned", "", "no table of tokens"] in rows


def test_what_is_checked_in_follows_from_the_results() -> None:
    results = ResultFile(RESULTS, RELEASE).ordered()
    again = "python -m conformance --write-verdicts --write-page"
    assert VERDICTS.read_text(encoding="utf-8") == verdicts_text(results, RELEASE), again
    refused = refused_by_plan.read()
    assert PAGE.read_text(encoding="utf-8") == page(results, RELEASE, refused), again
    assert DATA.read_text(encoding="utf-8") == data(results, refused), again
    assert not refused.keys() & {result.model_type for result in results}, again


def test_a_model_that_people_come_with_loses_nothing() -> None:
    failing = result(*SOUND, ("lora", "merge", "it differs"))
    held = replace(failing, model_type="xmod")
    assert verdict_of(failing).clean
    assert verdict_of(held).refused == Failed(
        "merge", "`adapters` has the model, so none of its methods may be lost, but lora fails: decoder: it differs"
    )


def test_a_head_that_becomes_another_loses_its_conversion_and_nothing_else() -> None:
    lost = Result("m", "MForMaskedLM", "", "conversion", "logits differ")
    made = result(*SOUND)
    verdict = verdict_of(replace(made, cells=(*made.cells, lost)))
    assert verdict.clean
    assert verdict.families == verdict_of(made).families
    assert verdict.unconverted == {"MForMaskedLM": Failed("conversion", "MForMaskedLM: logits differ")}
    read = read_verdicts(verdicts_text([replace(made, cells=(*made.cells, lost))], RELEASE))
    assert read.unconverted["m"]["MForMaskedLM"].reason == "MForMaskedLM: logits differ"
    assert "| m | MForMaskedLM | conversion | MForMaskedLM: logits differ |" in page(
        [replace(made, cells=(*made.cells, lost))], RELEASE, {}
    )


def test_a_head_that_converts_leaves_no_entry() -> None:
    made = result(*SOUND, ("", "conversion", ""))
    assert not verdict_of(made).unconverted
    assert "unconverted" not in json.loads(verdicts_text([made], RELEASE))
    assert "The heads of 0 of upstream's classes" in page([made], RELEASE, {})
