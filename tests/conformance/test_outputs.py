"""What of outputs is compared, and that nothing compared is never taken for something that differs, or is equal."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig

from conformance.outputs import assert_differs, at_tokens, flags, flatten, main_outputs

MASK = torch.tensor([[0, 1, 1], [1, 1, 1]])
STATES = torch.arange(2.0 * 5 * 4).reshape(2, 5, 4)


def test_positions_of_a_prompt_in_front_are_left_out() -> None:
    found = at_tokens({"last_hidden_state": STATES}, MASK, in_front=2)
    assert torch.equal(found["last_hidden_state"], STATES[:, 2:][MASK.bool()])


class TakesAll(torch.nn.Module):
    """A model whose forward takes any argument."""

    def __init__(self, of_maps_alone: object) -> None:
        super().__init__()
        self.part = torch.nn.Linear(2, 2)
        self.part.features_only = of_maps_alone  # type: ignore[assignment]

    def forward(self, states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return self.part(states)


@pytest.mark.parametrize(("of_maps_alone", "asked"), [(True, False), (False, True), ([], True)])
def test_hidden_states_are_asked_for_but_of_a_part_that_gives_maps_alone(of_maps_alone: object, asked: bool) -> None:
    assert flags(TakesAll(of_maps_alone)).get("output_hidden_states", False) is asked


def test_a_forward_is_asked_for_what_it_takes_only() -> None:
    assert flags(torch.nn.Linear(2, 2)) == {}


def test_outputs_that_are_longer_by_something_else_than_a_prompt_are_not_taken_for_tokens() -> None:
    assert at_tokens({"last_hidden_state": STATES}, MASK) == {}
    assert at_tokens({"last_hidden_state": STATES}, MASK, in_front=1) == {}


def test_outputs_at_the_tokens_alone_stay_whole_beside_those_with_a_prompt() -> None:
    logits = STATES[:, :3]
    found = at_tokens({"logits": logits, "hidden_states.0": STATES}, MASK, in_front=2)
    assert torch.equal(found["logits"], logits[MASK.bool()])
    assert torch.equal(found["hidden_states.0"], STATES[:, 2:][MASK.bool()])


@pytest.mark.parametrize("turned", [False, True], ids=["the first is longer", "the second is longer"])
def test_the_last_tokens_are_compared_where_one_has_a_prompt_and_the_other_none(turned: bool) -> None:
    def check(longer: torch.Tensor, shorter: torch.Tensor) -> None:
        pair = [{"x": longer}, {"x": shorter}]
        assert_differs(*(pair[::-1] if turned else pair), "the adapter")

    check(STATES, STATES[:, 2:] + 1)
    with pytest.raises(AssertionError, match="no effect"):
        check(STATES, STATES[:, 2:])


def test_a_cache_gives_the_states_of_layers_that_hold_no_keys() -> None:
    config = LlamaConfig(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])
    cache = DynamicCache(config=config)
    cache.layers[0].update_conv_state(torch.ones(2, 3, 4))
    cache.update(torch.ones(2, 1, 3, 4), torch.zeros(2, 1, 3, 4), 1)
    assert set(flatten(cache)) == {"0.conv_states.0", "1.keys", "1.values"}


def test_outputs_of_parts_are_read_where_there_are_no_others() -> None:
    part = {"loss": STATES.sum(), "logits": STATES, "hidden_states": (STATES, STATES)}
    assert list(main_outputs({"text_outputs": part, "loss": STATES.sum()})) == ["text_outputs.logits"]
    assert list(main_outputs({"text_outputs": part, "logits": STATES})) == ["logits"]
    assert list(main_outputs({"hidden_states": (STATES,), "logits": STATES})) == ["logits"]


def test_lists_are_read_where_nothing_else_is_given_but_not_the_states_of_layers() -> None:
    layers = {"encoder_hidden_states": (STATES,), "attentions": (STATES,)}
    assert list(main_outputs({"feature_maps": (STATES, STATES), **layers})) == ["feature_maps.0", "feature_maps.1"]
    assert not main_outputs(layers)
