"""How much flexible heads drop, and which labels count, as the table of upstream's classes says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from adapter_models import AutoAdapterModel
from adapter_runtime.contract import registry
from adapter_runtime.contract.registry import registered
from adapter_runtime.heads.factory import head_from_config
from adapter_runtime.heads.kinds.language_modeling import CausalLMHead
from adapter_runtime.heads.kinds.losses import language_modeling_loss
from conformance.tiny import randomise, tiny_config

TOKENS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(2))
GENERIC = ("classifier_dropout", "hidden_dropout", 0.1)


def model_with(
    monkeypatch: pytest.MonkeyPatch, head_type: str, table: Mapping[str, object], **config: Any
) -> PreTrainedModel:
    """A Llama of which the table says that upstream's class with such a head is like that."""
    own = tiny_config("llama", **config)
    heads = {**registered().heads, type(own).__name__: {head_type: {"head_type": head_type, **table}}}
    monkeypatch.setattr(registry, "_registry", dataclasses.replace(registered(), heads=heads))
    torch.manual_seed(0)
    return AutoAdapterModel.from_config(own)


def rates(head: nn.Module) -> list[float]:
    return [module.p for module in head.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param({}, 0.1, id="upstream's default"),
        pytest.param({"hidden_dropout": 0.2}, 0.2, id="the second field"),
        pytest.param({"classifier_dropout": 0.3, "hidden_dropout": 0.2}, 0.3, id="the first field"),
        pytest.param({"classifier_dropout": None, "hidden_dropout": 0.2}, 0.2, id="a field that is None"),
        pytest.param({"classifier_dropout": 0.0, "hidden_dropout": 0.2}, 0.0, id="a field that is zero"),
    ],
)
def test_the_first_rate_that_is_given_counts(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, float | None], expected: float
) -> None:
    model = model_with(monkeypatch, "tagging", {"dropout_rates": GENERIC}, **config)
    model.add_tagging_head("tags")
    assert rates(model.heads["tags"]) == [expected]


def test_a_rate_of_the_head_counts_before_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(monkeypatch, "tagging", {"dropout_rates": GENERIC})
    model.add_tagging_head("tags", dropout_prob=0.4)
    assert rates(model.heads["tags"]) == [0.4]


def test_a_head_of_another_type_drops_as_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(monkeypatch, "tagging", {"dropout_rates": GENERIC}, attention_dropout=0.05)
    model.add_qa_head("spans")
    assert rates(model.heads["spans"]) == [0.05]


def test_labels_of_several_are_classified_with_the_same_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(monkeypatch, "classification", {"dropout_rates": (0.2,)})
    model.add_classification_head("topics", layers=1, multilabel=True)
    assert rates(model.heads["topics"]) == [0.2]


@pytest.mark.parametrize(("layers", "expected"), [(2, [0.0, 0.2]), (3, [0.2, 0.2, 0.2]), (1, [0.2])])
def test_the_first_dropout_is_another_in_a_head_like_upstreams(
    monkeypatch: pytest.MonkeyPatch, layers: int, expected: list[float]
) -> None:
    table = {"layers": 2, "dropout_rates": (0.2,), "first_dropout_rates": (0.0,)}
    model = model_with(monkeypatch, "classification", table)
    model.add_classification_head("topics", layers=layers)
    assert rates(model.heads["topics"]) == expected


@pytest.mark.parametrize("skips", [True, False])
def test_labels_of_padding_count_unless_upstream_leaves_them_out(monkeypatch: pytest.MonkeyPatch, skips: bool) -> None:
    model = model_with(monkeypatch, "causal_lm", {"skip_padding": skips})
    model.add_causal_lm_head("words")
    randomise(model)
    model.eval()
    mask = torch.ones_like(TOKENS)
    mask[0, -2:] = 0
    with torch.no_grad():
        found = model(TOKENS, attention_mask=mask, labels=TOKENS).loss
        ignored = model(TOKENS, attention_mask=mask, labels=TOKENS.masked_fill(mask == 0, -100)).loss
    assert torch.isclose(found, ignored).item() is skips


@pytest.mark.parametrize("of_end", [True, False])
def test_labels_are_of_the_last_positions_where_upstreams_are(monkeypatch: pytest.MonkeyPatch, of_end: bool) -> None:
    model = model_with(monkeypatch, "causal_lm", {"labels_of_end": of_end})
    model.add_causal_lm_head("words")
    randomise(model)
    model.eval()
    if not of_end:
        with torch.no_grad(), pytest.raises(ValueError, match="batch_size"):
            model(TOKENS, labels=TOKENS[:, 3:])
        return
    with torch.no_grad():
        found, all_of_them = model(TOKENS, labels=TOKENS[:, 3:]), model(TOKENS, labels=TOKENS)
    wanted = functional.cross_entropy(found.logits[:, 3:-1].flatten(0, 1), TOKENS[:, 4:].flatten())
    assert torch.isclose(found.loss, wanted)
    whole = functional.cross_entropy(found.logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())
    assert torch.isclose(all_of_them.loss, whole)


@pytest.mark.parametrize(
    ("mask", "counted"),
    [
        pytest.param([[0, 0, 1, 1, 0, 1]], [2, 4], id="the end of a longer one"),
        pytest.param([[1, 0, 1]], [2, 3, 4], id="a shorter one says nothing"),
        pytest.param([[1, 1, 1, 0, 1]] * 2, [2, 3, 4], id="one of more rows says nothing"),
        pytest.param([[[1, 1, 1, 0, 1]]], [2, 3, 4], id="one of more dimensions says nothing"),
    ],
)
def test_which_labels_a_mask_leaves_in(mask: list[Any], counted: list[int]) -> None:
    logits, labels = torch.randn(1, 4, 9), torch.tensor([[1, 2, 3, 4]])
    found = language_modeling_loss(logits, labels, shift=True, attention_mask=torch.tensor(mask))
    kept = torch.tensor([label in counted for label in labels[0, 1:].tolist()])
    assert torch.isclose(found, functional.cross_entropy(logits[0, :-1][kept], labels[0, 1:][kept]))


def test_the_option_of_a_head_counts_before_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_with(monkeypatch, "causal_lm", {"skip_padding": True})
    head = head_from_config(model, "words", {"head_type": "causal_lm", "skip_padding": False})
    assert isinstance(head, CausalLMHead) and not head.skips_padding
