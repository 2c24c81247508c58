"""Every check can fail: for each there is a defect, planted on purpose, that it finds, in each kind of method.

The checks on sound code are in ``tests/generated``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from adapter_runtime.call.context import thread
from adapter_runtime.model.api import ModelAdaptersMixin
from conformance.breaking import edit_generated, sites, without_site
from conformance.checks import CHECKS, MODEL_CHECKS, Check, cells
from conformance.checks.conversion import conversion_goes_back
from conformance.defects import DEFECTS
from conformance.defects.planting import LLAMA, Defect, Patch, kinds_of
from conformance.emitted import modeling_module
from conformance.methods import method
from conformance.subjects import head_subjects, method_subjects
from conformance.supported import supported_can_be_added


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """A setup or context that a defect leaves open would be that of the next test."""
    yield
    thread.setup = thread.context = None


PLANTED = [
    pytest.param(defect, name, id=f"{title}-{name}" if name else title)
    for title, defect in DEFECTS.items()
    for name in defect.methods
]


@pytest.mark.parametrize(("defect", "name"), PLANTED)
def test_check_finds(defect: Defect, name: str, monkeypatch: Patch) -> None:
    defect.plant(monkeypatch)
    with pytest.raises(defect.raises, match=defect.message) as found:
        run(defect, name)
    assert "would be empty" not in str(found.value), "it is found only because nothing is left to compare"


def run(defect: Defect, name: str) -> None:
    """The cell of the table that must find a defect."""
    for model_check in MODEL_CHECKS:
        if model_check.name == defect.check:
            model_check.run(defect.subject)
    for check in CHECKS:
        if check.name == defect.check:
            assert not check.why_not(defect.subject, method(name)), "the check does not apply"
            check.run(defect.subject, method(name))


def test_every_check_has_a_defect_that_it_finds() -> None:
    named = {defect.check for defect in DEFECTS.values()}
    assert named == {check.name for check in (*CHECKS, *MODEL_CHECKS)}


def test_every_check_finds_a_defect_in_each_kind_of_method_to_which_it_applies() -> None:
    applies = {
        (cell.check.name, kind)
        for model_type in ("bert", "llama")
        for cell in cells(model_type)
        if not cell.why_not()
        for kind in kinds_of(cell.method)
    }
    found = {
        (defect.check, kind)
        for defect in DEFECTS.values()
        for name in defect.methods
        if name
        for kind in kinds_of(method(name))
    }
    assert not sorted(applies - found)


@pytest.mark.parametrize(
    ("model_type", "index"),
    [
        pytest.param(model_type, index, id=f"{model_type}-{label}")
        for model_type in ("bert", "llama")
        for index, label in enumerate(sites(modeling_module(model_type)))
    ],
)
def test_liveness_finds_that_a_site_is_missing(model_type: str, index: int, monkeypatch: Patch) -> None:
    """Whichever site of the generated file is removed."""
    module = modeling_module(model_type)
    label = sites(module)[index]
    edit_generated(monkeypatch, module, lambda text: without_site(text, index))
    names = ["prefix_tuning_flat"] if "prepend_prefix" in label else ["double_seq_bn", "cross_bn"]
    liveness = next(check for check in CHECKS if check.name == "liveness")
    subjects = [(subject, name) for subject in method_subjects(model_type) for name in names[: 1 + subject.cross]]
    errors = [error for subject, name in subjects if (error := _error_of(liveness, subject, name))]
    assert errors
    assert all("no gradient reaches" in error for error in errors)


def _error_of(check: Check, subject: Any, name: str) -> str:
    try:
        check.run(subject, method(name))
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("answer", [True, False])
def test_an_answer_that_add_adapter_does_not_bear_out_is_found(answer: bool, monkeypatch: Patch) -> None:
    """Llama has no cross-attention, and takes LoRA."""
    monkeypatch.setattr(ModelAdaptersMixin, "supports_adapter", lambda self, config: answer)
    with pytest.raises(AssertionError, match="says yes to cross_bn" if answer else "says no to seq_bn"):
        supported_can_be_added(LLAMA)


@pytest.mark.parametrize("mistake", ["a loss is left out", "two heads change places"])
def test_the_check_of_several_heads_finds_that(mistake: str, monkeypatch: Patch) -> None:
    from adapter_runtime.model.heads import running
    from conformance.heads import heads_run_together

    whole = running.multi_head_output

    def broken(outputs: Any, results: list[Any]) -> Any:
        if mistake == "two heads change places":
            return whole(outputs, [results[1], results[0], *results[2:]])
        joined = whole(outputs, results)
        joined.loss = whole(outputs, results[1:]).loss
        return joined

    monkeypatch.setattr(running, "multi_head_output", broken)
    with pytest.raises(AssertionError):
        heads_run_together("llama")


def test_conversion_back_finds_that_two_layers_change_places(monkeypatch: Patch) -> None:
    from adapter_runtime.heads.static import static_keys
    from adapter_runtime.model.heads import exporting

    def swapped(*arguments: Any) -> dict[str, torch.Tensor]:
        keys = static_keys(*arguments)
        first, second = "cls.predictions.transform.dense.bias", "cls.predictions.transform.LayerNorm.bias"
        keys[first], keys[second] = keys[second], keys[first]
        return keys

    monkeypatch.setattr(exporting, "static_keys", swapped)
    static = next(subject for subject in head_subjects("bert") if subject.architecture == "BertForMaskedLM")
    with pytest.raises(AssertionError, match="weights"):
        conversion_goes_back(static)
