"""Recurrences: their caches do not say how many tokens they hold, and are told."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, EncoderDecoderCache, JambaConfig, MambaConfig, MambaForCausalLM, PreTrainedModel

from adapter_models import init
from adapter_runtime.call.seen import SeenTokens, keeps_states, past_positions, seen_with, tell_cache
from adapter_runtime.errors import UnsupportedMethodError
from runtime_models import randomise

# ReFT at the first tokens, of which some come in later calls; in front of them; and both.
FIRST_CALL = 2
CONFIGS = ["loreft[prefix_positions=4,suffix_positions=0]", "prompt_tuning[prompt_length=3]"]


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2)
    model = MambaForCausalLM(config).eval()
    init(model)
    model.add_adapter("a", request.param, set_active=True)
    randomise(model, "a")
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(3))


def begin(model: PreTrainedModel, ids: torch.Tensor, **given: Any) -> tuple[list[torch.Tensor], DynamicCache]:
    outputs = model(ids[:, :FIRST_CALL], use_cache=True, **given)
    return [outputs.logits], outputs.cache_params


def go_on(model: PreTrainedModel, ids: torch.Tensor, cache: DynamicCache, logits: list[torch.Tensor]) -> torch.Tensor:
    """The logits of all tokens, where those behind the first call come one by one."""
    for position in range(FIRST_CALL, ids.shape[1]):
        logits = [*logits, model(ids[:, position : position + 1], cache_params=cache).logits]
    return torch.cat(logits, dim=1)


@torch.no_grad()
def test_steps_give_what_the_whole_gives(model: PreTrainedModel, ids: torch.Tensor) -> None:
    logits, cache = begin(model, ids)
    assert_close(go_on(model, ids, cache, logits), model(ids).logits)


@torch.no_grad()
def test_a_copy_of_a_cache_goes_on_by_itself(model: PreTrainedModel, ids: torch.Tensor) -> None:
    logits, cache = begin(model, ids)
    copied = copy.deepcopy(cache)
    go_on(model, ids.flip(0), cache, logits)
    assert_close(go_on(model, ids, copied, logits), model(ids).logits)


@torch.no_grad()
def test_a_cache_that_is_emptied_begins_again(model: PreTrainedModel, ids: torch.Tensor) -> None:
    _, cache = begin(model, ids)
    cache.reset()
    logits, cache = begin(model, ids, cache_params=cache)
    assert_close(go_on(model, ids, cache, logits), model(ids).logits)


@torch.no_grad()
def test_padding_of_the_first_call_moves_the_first_tokens_of_later_ones(
    model: PreTrainedModel, ids: torch.Tensor
) -> None:
    mask = torch.ones(2, FIRST_CALL, dtype=torch.long)
    mask[1, 0] = 0
    logits, cache = begin(model, ids, attention_mask=mask)
    padded = go_on(model, ids, cache, logits)
    assert_close(padded[1, 1:], model(ids[1:, 1:]).logits[0])


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_knows_the_prompt_of_a_padded_row(model: PreTrainedModel, ids: torch.Tensor, beams: int) -> None:
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
    padded = model.generate(ids, attention_mask=mask, **options)
    assert_close(padded[1:, 3:], model.generate(ids[1:, 3:], **options))
    assert_close(padded, model.generate(ids, attention_mask=mask, use_cache=False, **options))


@torch.no_grad()
def test_states_made_without_such_an_adapter_are_refused(model: PreTrainedModel, ids: torch.Tensor) -> None:
    model.set_active_adapters(None)
    _, cache = begin(model, ids)
    model.set_active_adapters("a")
    with pytest.raises(UnsupportedMethodError, match="does not show in the states of this cache"):
        model(ids[:, :1], cache_params=cache)


def of_recurrence(real: torch.Tensor | None) -> DynamicCache:
    """A cache that has seen tokens [B, L]."""
    cache = DynamicCache(config=MambaConfig(num_hidden_layers=2))
    cache.update_conv_state(torch.zeros(2, 4, 4), 1)
    tell_cache(SeenTokens(real, 3, 0), {"cache_params": cache}, ())
    return cache


def test_states_of_other_rows_are_refused_where_rows_are_padded() -> None:
    padded = torch.tensor([[0, 1, 1], [1, 1, 1]])
    other = {"input_ids": torch.zeros(4, 1, dtype=torch.long)}
    with pytest.raises(UnsupportedMethodError, match="states of 2 rows, and the call has 4"):
        seen_with({**other, "cache_params": of_recurrence(padded)}, 0)
    assert seen_with({**other, "cache_params": of_recurrence(None)}, 0) == SeenTokens(None, 4, 0)


@pytest.mark.parametrize(
    "given",
    [pytest.param(None, id="none"), pytest.param([[1]], id="of the step"), pytest.param([[1, 1, 1, 1]], id="of all")],
)
def test_a_step_may_have_any_mask(given: list[list[int]] | None) -> None:
    mask = None if given is None else torch.tensor(given * 2)
    cache = of_recurrence(torch.tensor([[0, 1, 1], [1, 1, 1]]))
    seen = seen_with(
        {"input_ids": torch.zeros(2, 1, dtype=torch.long), "attention_mask": mask, "cache_params": cache}, 0
    )
    assert seen is not None and isinstance(seen.mask, torch.Tensor)
    assert seen.mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


def test_attention_counts_by_itself() -> None:
    """Also beside a recurrence (Jamba), where nothing is told."""
    hybrid = JambaConfig(num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1)
    caches = [DynamicCache(config=hybrid), DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())]
    for cache in caches:
        assert not keeps_states(cache)
        assert past_positions({"past_key_values": cache}) == 0
    caches[1].update(torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4), 0)
    assert past_positions({"past_key_values": caches[1]}) == 5
