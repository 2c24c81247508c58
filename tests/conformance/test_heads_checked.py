"""What the checks of flexible heads take for right, and what they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conformance import heads
from conformance.heads import _of_choices, head_works
from conformance.subjects import BATCH


def test_a_layer_of_a_tower_that_upstream_does_not_read_is_not_reached_and_any_other_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head_works("llava", "causal_lm")  # it reads the last layer of its tower but one
    monkeypatch.setattr(heads, "quiet_names", lambda *_: set())
    with pytest.raises(AssertionError, match=r"does not reach \['model\.vision_tower\.encoder\.layers\.1\."):
        head_works("llava", "causal_lm")


def test_a_parameter_that_the_loss_does_not_reach_is_found_where_upstream_trains_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = heads.adapter_parameters
    extra = "model.language_model.layers.1.self_attn.q_proj.loras.adapter_a.none"
    monkeypatch.setattr(
        heads, "adapter_parameters", lambda *given: {**known(*given), extra: nn.Parameter(torch.ones(1))}
    )
    with pytest.raises(AssertionError, match=r"does not reach \['model\.language_model\S*none'\]"):
        head_works("llava", "causal_lm")


@pytest.mark.parametrize(("model_type", "head_type"), [("git", "causal_lm"), ("layoutlmv3", "question_answering")])
def test_logits_are_of_as_many_positions_as_upstreams_class_gives_with_an_image(
    monkeypatch: pytest.MonkeyPatch, model_type: str, head_type: str
) -> None:
    head_works(model_type, head_type)
    monkeypatch.setattr(heads, "_scored_by_upstream", lambda *_: None)
    with pytest.raises(AssertionError, match=r"logits are \(3, 25"):
        head_works(model_type, head_type)


def test_a_base_model_that_no_table_of_upstream_names_is_compared() -> None:
    heads.headless_is_base("pp_chart2table")


def test_choices_repeat_rows_and_pieces_of_rows_in_their_order() -> None:
    rows, pieces = torch.arange(BATCH * 2).view(BATCH, 2), torch.arange(BATCH * 2)
    assert _of_choices(rows, 2).tolist() == [[row, row] for row in rows.tolist()]
    assert _of_choices(pieces, 2).tolist() == [piece for row in rows.tolist() for piece in (*row, *row)]


@pytest.mark.parametrize(
    ("model_type", "tables"),
    [
        pytest.param("bert", (), id="upstream's class keeps its row of padding"),
        pytest.param("gpt2", (), id="there is no such row"),
        pytest.param("funnel", ("embeddings.word_embeddings",), id="upstream's class sets it to zero"),
    ],
)
def test_tables_whose_padding_upstream_forgets_are_told(model_type: str, tables: tuple[str, ...]) -> None:
    assert heads.emptied_tables(heads.base_subject(model_type)) == tables
