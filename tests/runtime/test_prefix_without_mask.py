"""Prefixes in attention that is written out: heads folded into the batch, and rows told apart where no mask could do it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from adapter_models import BatchSplit, Stack, init
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prefix_tuning.masks import hide_from_rows
from conformance.tiny import tiny_config
from runtime_models import randomise

LENGTHS = {"p": 3, "q": 5}
TOKENS = {"input_ids": torch.arange(3, 15).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}


def _prefixed(model_type: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModel.from_config(tiny_config(model_type, **changes)).eval()
    init(model)
    for seed, (name, length) in enumerate(LENGTHS.items(), start=1):
        model.add_adapter(name, f"prefix_tuning_flat[prefix_length={length}]")
        randomise(model, name, seed)
    return model


def _images(model: Any) -> dict[str, torch.Tensor]:
    size = model.config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return {"pixel_values": torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))}


def _states(model: Any, setup: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        states: torch.Tensor = model(**inputs).last_hidden_state
    return states


@pytest.mark.parametrize("model_type", ["deberta", "deberta-v2", "mobilevit"])
def test_rows_see_their_own_prefix_though_the_attention_takes_no_mask(model_type: str) -> None:
    model = _prefixed(model_type)
    inputs = TOKENS if "deberta" in model_type else _images(model)
    split = _states(model, BatchSplit("p", Stack("p", "q"), batch_sizes=[1, 1]), inputs)
    alone = [_states(model, setup, inputs)[row] for row, setup in enumerate(("p", Stack("p", "q")))]
    assert_close(split, torch.stack(alone))
    assert not torch.equal(split[0], _states(model, "q", inputs)[0])


def test_heads_that_talk_hear_of_prefixes() -> None:
    """DeBERTa may mix the scores of its heads: those of a prefix are mixed too."""
    model = _prefixed("deberta", talking_head=True)
    before = _states(model, "p", TOKENS)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.head_logits_proj.weight.zero_()  # all keys weigh the same, also those in front
    assert not torch.equal(_states(model, "p", TOKENS), before)
    assert not torch.equal(_states(model, "p", TOKENS), _states(model, None, TOKENS))


@pytest.mark.parametrize("folded", [False, True])
def test_scores_of_what_a_row_does_not_see_are_hidden(folded: bool) -> None:
    scores = torch.zeros(2, 4, 5, 7)
    hidden = hide_from_rows(scores.flatten(0, 1) if folded else scores, torch.tensor([[1, 1], [0, 1]]).bool(), keys=5)
    expected = scores.clone()
    expected[1, ..., 0] = -torch.inf
    assert torch.equal(hidden.view_as(expected), expected)


def test_attention_that_can_hide_nothing_refuses_prefixes_of_several_lengths() -> None:
    model = _prefixed("bert")
    attention = model.encoder.layer[0].attention.self
    model.set_active_adapters(BatchSplit("p", "q", batch_sizes=[1, 1]))
    states = torch.zeros(2, attention.num_attention_heads, 6, attention.attention_head_size)
    gated = torch.zeros(2, 6, model.config.hidden_size)
    with pytest.raises(UnsupportedMethodError, match="prefixes of different lengths"):
        attention.prepend_prefix(states, states, states, None, gated, is_causal=False, takes_mask=False)
    model.set_active_adapters("p")
    key, _, mask = attention.prepend_prefix(states, states, states, None, gated, is_causal=False, takes_mask=False)
    assert key.shape[-2] == 6 + LENGTHS["p"] and mask is None
