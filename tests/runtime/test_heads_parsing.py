"""The head for dependency parsing: words out of tokens, arcs, relations, their loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from transformers import PreTrainedModel

from adapter_models import AutoAdapterModel
from adapter_models.heads import DependencyParsingOutput
from adapter_runtime.heads.kinds.dependency_parsing import merge_tokens
from conformance.tiny import randomise, tiny_config

TOKENS = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(2))
STARTS = torch.tensor([[1, 2, 4, 6], [1, 5, 0, 0]])  # words of tokens 1 | 2, 3 | 4, 5 and 1 to 4
ARCS = torch.tensor([[2, 0, 1], [0, -100, -100]])
RELATIONS = torch.tensor([[1, 0, 3], [2, -100, -100]])


def parser() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    randomise(model)
    model.add_dependency_parsing_head("p", num_labels=4)
    randomise(model.heads["p"], seed=2)
    return model.eval()


@pytest.mark.parametrize("padding", [0, -1, -100, 1], ids=lambda value: f"padded with {value}")
def test_a_word_is_the_mean_of_its_tokens_and_padding_is_none(padding: int) -> None:
    hidden = torch.randn(2, 6, 3, dtype=torch.float64)
    starts = torch.tensor([[1, 2, 4, 6], [1, 5, padding, padding]])
    words, is_word = merge_tokens(hidden, starts)
    assert is_word.tolist() == [[True] * 3 + [False] * 3, [True] + [False] * 5]
    assert_close(words[0, :3], torch.stack([hidden[0, 1], hidden[0, 2:4].mean(0), hidden[0, 4:6].mean(0)]))
    assert_close(words[1, 0], hidden[1, 1:5].mean(0))
    assert not words[~is_word].any()


def test_there_may_be_a_start_for_each_token_and_one_more() -> None:
    hidden = torch.randn(1, 3, 2)
    words, is_word = merge_tokens(hidden, torch.tensor([[0, 1, 2, 3]]))
    assert_close(words, hidden)
    assert is_word.all()


def test_scores_are_those_of_the_formula() -> None:
    model = parser()
    head = model.heads["p"]
    with torch.no_grad():
        outputs = model(TOKENS, word_starts=STARTS, output_hidden_states=True)
        hidden = model.bert(TOKENS).last_hidden_state
    assert type(outputs) is DependencyParsingOutput
    assert outputs.arc_preds.shape == (2, 6, 7)
    assert outputs.rel_preds.shape == (2, 6, 7, 4)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    word, root = hidden[0, 2:4].mean(0), hidden[0, 0]
    one = torch.ones(1)
    with torch.no_grad():
        arc = torch.cat([word, one]) @ head.biaffine_arcs.weight[0] @ root
        relation = torch.cat([word, one]) @ head.biaffine_rels.weight[2] @ torch.cat([root, one])
    assert_close(outputs.arc_preds[0, 1, 0], arc, rtol=1e-4, atol=1e-5)
    assert_close(outputs.rel_preds[0, 1, 0, 2], relation, rtol=1e-4, atol=1e-5)


def test_the_loss_counts_the_root_and_neither_padding_nor_ignored_words() -> None:
    model = parser()
    outputs = model(TOKENS, word_starts=STARTS, labels_arcs=ARCS, labels_rels=RELATIONS)
    rows, words = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 0])
    arcs, relations = ARCS[rows, words], RELATIONS[rows, words]
    expected = functional.cross_entropy(outputs.arc_preds[rows, words], arcs)
    expected = expected + functional.cross_entropy(outputs.rel_preds[rows, words, arcs], relations)
    assert_close(outputs.loss, expected)
    padded = functional.pad(ARCS, (0, 3)), functional.pad(RELATIONS, (0, 3))  # with 0, a label like any other
    again = model(TOKENS, word_starts=STARTS, labels_arcs=padded[0].clamp(min=0), labels_rels=padded[1].clamp(min=0))
    assert_close(again.loss, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs word_starts"),
        ({"word_starts": STARTS, "labels_arcs": ARCS}, "needs both labels_arcs and labels_rels"),
        ({"word_starts": STARTS, "labels_arcs": ARCS, "labels_rels": RELATIONS[:, :2]}, "must be of one shape"),
        (
            {
                "word_starts": STARTS,
                "labels_arcs": torch.zeros(2, 7, dtype=torch.long),
                "labels_rels": torch.zeros(2, 7, dtype=torch.long),
            },
            "for at most 6 words",
        ),
        ({"word_starts": STARTS, "labels": ARCS}, "takes labels_arcs and labels_rels, not labels"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parser()(TOKENS, **arguments)


def test_targets_of_a_parser_without_one_are_an_error() -> None:
    model = parser()
    model.active_head = None
    with pytest.raises(ValueError, match="Got labels_arcs, but no head is active"):
        model(TOKENS, labels_arcs=ARCS)


def test_the_targets_are_no_part_of_the_signature() -> None:
    """`Trainer` would take all arguments named like labels for targets of every head."""
    from transformers.utils.generic import find_labels

    assert find_labels(type(parser())) == ["labels"]


def test_a_compiled_parser_computes_the_same() -> None:
    model = parser()
    arguments = {"word_starts": STARTS, "labels_arcs": ARCS, "labels_rels": RELATIONS}
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(TOKENS, **arguments).loss, model(TOKENS, **arguments).loss)
