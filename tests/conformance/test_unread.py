"""Edits of ReFT at positions that upstream does not read: only these need no gradient, and they must still be there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from adapter_runtime.call.rows import TokenSpans
from adapter_runtime.methods.reft.layer import ReftLayer
from conformance.adapted import FIRST, initialised
from conformance.checks.liveness import every_site_is_live
from conformance.methods import ReFT, method
from conformance.reference.layout import layout_of
from conformance.sites import assert_each_acts_alone
from conformance.subjects import head_subjects
from conformance.unread import Unread, unread_edits

# Its head reads the first token of the last layer. The first unit edits the first two tokens, the second the last one.
POOLING = next(subject for subject in head_subjects("bert") if subject.architecture == "BertForSequenceClassification")
READING_ALL = next(subject for subject in head_subjects("bert") if subject.architecture == "BertForMaskedLM")
NOREFT = method("noreft")
LEAVES = ("learned_source.weight", "learned_source.bias", "projection.weight")


def _units(part: ReFT, subject: Any) -> set[str]:
    """ "layer.unit" of what is not read."""
    layout = layout_of(initialised(subject))
    names = unread_edits(subject, layout, part, FIRST, subject.padded_inputs()).untrained
    return {f"{name.partition('.reft_layer.')[0][-1]}.{name.partition('.units.')[2][0]}" for name in names}


def test_only_the_last_layer_is_unread_and_only_where_nothing_pools() -> None:
    assert _units(ReFT(2, 1), POOLING) == {"1.1"}


def test_a_unit_that_edits_the_pooled_token_among_others_is_read() -> None:
    assert _units(ReFT(7, 1), POOLING) == {"1.1"}
    assert _units(ReFT(1, 7), POOLING) == {"1.1"}
    assert _units(ReFT(1, 8), POOLING) == {"0.0", "1.0"}  # which has no token left


def test_every_position_of_a_model_that_gives_one_prediction_per_token_is_read() -> None:
    assert _units(ReFT(2, 1), READING_ALL) == set()


def test_the_other_units_are_alive() -> None:
    every_site_is_live(POOLING, NOREFT)


@pytest.mark.parametrize("index", [0, 1])
def test_an_edit_that_is_missing_is_found_in_every_layer(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    edit = ReftLayer.edit_output
    monkeypatch.setattr(
        ReftLayer, "edit_output", lambda self, *args: None if self.layer_index == index else edit(self, *args)
    )
    with pytest.raises(AssertionError, match="no gradient reaches"):
        every_site_is_live(POOLING, NOREFT)


def test_the_unit_that_should_edit_the_pooled_token_and_does_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    read = TokenSpans.read

    def one_late(*args: Any) -> TokenSpans:
        spans = read(*args)
        return replace(spans, first=spans.first + 1)

    monkeypatch.setattr(TokenSpans, "read", staticmethod(one_late))
    with pytest.raises(AssertionError, match=r"no gradient reaches .*layer\.1\.reft_layer.*units\.0"):
        every_site_is_live(POOLING, NOREFT)


def test_an_edit_of_which_nothing_is_read_must_still_change_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no unit of the layer is excused by its own gradient."""
    edit = ReftLayer.edit_output
    monkeypatch.setattr(
        ReftLayer, "edit_output", lambda self, *args: None if self.layer_index == 1 else edit(self, *args)
    )
    names = {
        f"bert.encoder.layer.1.reft_layer.refts.{FIRST}.units.{unit}.{leaf}" for unit in range(2) for leaf in LEAVES
    }
    model = initialised(POOLING)
    model.add_adapter(FIRST, config=NOREFT.config)
    model.train_adapter(FIRST)
    model.eval()
    with pytest.raises(AssertionError, match="alone without effect"):
        assert_each_acts_alone(model, FIRST, POOLING, POOLING.padded_inputs(), unread=Unread(untrained=names))
