"""Pooling, losses and outputs of heads, without a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPast,
    ModelOutput,
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutput,
    SequenceClassifierOutputWithPast,
)

from adapter_runtime.heads.kinds.losses import (
    classification_loss,
    language_modeling_loss,
    multilabel_loss,
    span_loss,
    token_loss,
)
from adapter_runtime.heads.outputs import with_logits
from adapter_runtime.heads.pooling import pool

HIDDEN = torch.arange(2 * 4 * 3, dtype=torch.float32).view(2, 4, 3)
RIGHT_PADDED = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
LEFT_PADDED = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("rule", "mask", "positions"),
    [
        pytest.param("first", None, (0, 0), id="the first token stands for a sequence without a mask"),
        pytest.param("first", RIGHT_PADDED, (0, 0), id="the first token is not moved by padding on the right"),
        pytest.param(
            "first", LEFT_PADDED, (0, 0), id="the first position is taken as upstream does, whatever the padding"
        ),
        pytest.param("last", None, (3, 3), id="the last token stands for a sequence without a mask"),
        pytest.param("last", RIGHT_PADDED, (3, 1), id="the last real token precedes the padding on the right"),
        pytest.param("last", LEFT_PADDED, (3, 3), id="the last token is not moved by padding on the left"),
    ],
)
def test_pooling_takes_the_token_of_the_rule(rule: str, mask: torch.Tensor | None, positions: tuple[int, int]) -> None:
    expected = torch.stack([HIDDEN[row, position] for row, position in enumerate(positions)])
    assert_close(pool(HIDDEN, rule, attention_mask=mask), expected, rtol=0, atol=0)  # type: ignore[arg-type]


def test_padding_is_told_by_its_token_where_there_is_no_mask() -> None:
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    assert_close(pool(HIDDEN, "last", input_ids=tokens, pad_token_id=0)[1], HIDDEN[1, 1])


def test_a_position_is_padding_where_the_codes_of_all_books_are() -> None:
    books = torch.tensor([[[5, 6, 7, 0], [0, 6, 7, 8]], [[5, 6, 0, 0], [0, 6, 7, 0]]])  # each book begins a step later
    expected = torch.stack([HIDDEN[0, 3], HIDDEN[1, 2]])
    for tokens in (books, books.flatten(0, 1)):
        assert_close(pool(HIDDEN, "last", input_ids=tokens, pad_token_id=0), expected, rtol=0, atol=0)


def test_a_mask_decides_over_a_padding_token_that_is_part_of_the_text() -> None:
    tokens = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 0]])
    assert_close(pool(HIDDEN, "last", input_ids=tokens, attention_mask=torch.ones(2, 4), pad_token_id=0), HIDDEN[:, 3])


def test_with_a_cache_the_mask_covers_more_than_the_hidden_states() -> None:
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]])
    assert_close(pool(HIDDEN, "last", attention_mask=mask)[1], HIDDEN[1, 2])


def test_the_last_end_token_stands_for_a_sequence_of_an_encoder_decoder() -> None:
    tokens = torch.tensor([[5, 2, 6, 2], [5, 2, 1, 1]])
    pooled = pool(HIDDEN, "eos", input_ids=tokens, eos_token_id=2)
    assert_close(pooled, torch.stack([HIDDEN[0, 3], HIDDEN[1, 1]]))


def test_a_sequence_without_an_end_token_is_refused() -> None:
    with pytest.raises(ValueError, match="Each sequence needs an end-of-sequence token \\(id 2\\)"):
        pool(HIDDEN, "eos", input_ids=torch.tensor([[5, 2, 6, 2], [5, 5, 1, 1]]), eos_token_id=2)


def test_one_output_is_a_regression() -> None:
    assert_close(classification_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1])), torch.tensor(2.5))


def test_several_outputs_are_classes() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    expected = -torch.log_softmax(logits, -1)[[0, 1], [0, 0]].mean()
    assert_close(classification_loss(logits, torch.tensor([0, 0])), expected)


def test_labels_of_a_multilabel_head_may_be_integers() -> None:
    logits = torch.tensor([[2.0, -1.0]])
    assert_close(multilabel_loss(logits, torch.tensor([[1, 0]])), multilabel_loss(logits, torch.tensor([[1.0, 0.0]])))


def test_neither_padding_nor_ignored_tokens_count_in_the_loss_of_a_tagger() -> None:
    logits = torch.randn(1, 4, 3)
    loss = token_loss(logits, torch.tensor([[0, -100, 2, 1]]), torch.tensor([[1, 1, 1, 0]]))
    assert_close(loss, torch.nn.functional.cross_entropy(logits[0, [0, 2]], torch.tensor([0, 2])))


def test_answers_outside_the_text_count_for_nothing() -> None:
    start, end = torch.randn(2, 5), torch.randn(2, 5)
    loss = span_loss(start, end, torch.tensor([1, 7]), torch.tensor([2, -1]))
    ce = torch.nn.functional.cross_entropy
    assert_close(loss, (ce(start[:1], torch.tensor([1])) + ce(end[:1], torch.tensor([2]))) / 2)


def test_a_causal_head_predicts_the_next_token() -> None:
    logits, labels = torch.randn(2, 4, 7), torch.randint(7, (2, 4))
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_close(language_modeling_loss(logits, labels, shift=True), expected)
    assert not torch.allclose(language_modeling_loss(logits, labels, shift=False), expected)


def test_the_narrowest_output_class_that_holds_everything_is_taken() -> None:
    classes = (SequenceClassifierOutput, SequenceClassifierOutputWithPast)
    plain = with_logits(classes, BaseModelOutput(last_hidden_state=HIDDEN), None, logits=HIDDEN)
    cached = with_logits(
        classes,
        BaseModelOutputWithPast(last_hidden_state=HIDDEN, past_key_values=((HIDDEN, HIDDEN),)),
        None,
        logits=HIDDEN,
    )
    assert type(plain) is SequenceClassifierOutput
    assert type(cached) is SequenceClassifierOutputWithPast
    assert cached.past_key_values is not None


@pytest.mark.parametrize(
    ("others", "taken"),
    [
        pytest.param({"image_hidden_states": HIDDEN}, SequenceClassifierOutput, id="what no class holds"),
        pytest.param(
            {"image_hidden_states": HIDDEN, "past_key_values": ((HIDDEN, HIDDEN),)},
            SequenceClassifierOutputWithPast,
            id="what no class holds, and a cache",
        ),
        pytest.param({"encoder_last_hidden_state": HIDDEN}, Seq2SeqSequenceClassifierOutput, id="what the last holds"),
    ],
)
def test_what_no_output_class_holds_takes_nothing_else_along(others: dict[str, Any], taken: type[ModelOutput]) -> None:
    classes = (SequenceClassifierOutput, SequenceClassifierOutputWithPast, Seq2SeqSequenceClassifierOutput)
    states = {} if taken is Seq2SeqSequenceClassifierOutput else {"hidden_states": (HIDDEN,), "attentions": (HIDDEN,)}
    outputs = with_logits(classes, ModelOutput(last_hidden_state=HIDDEN, **states, **others), None, logits=HIDDEN)
    assert type(outputs) is taken
    assert all(name in outputs for name in states)
