"""`Parallel` repeats what has a batch, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlavaConfig, NeoMMEConfig, PreTrainedConfig, ViltConfig
from transformers.modeling_outputs import BaseModelOutput

from adapter_runtime.call.placeholders import puts_by_index
from adapter_runtime.call.repeating import repeated
from adapter_runtime.errors import UnsupportedMethodError

IDS = torch.arange(6).view(2, 3)
HIDDEN = torch.randn(2, 3, 4)


def copies_of(**kwargs: Any) -> dict[str, Any]:
    return repeated((), (), {"input_ids": IDS, **kwargs}, 3)[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("attention_mask", IDS, id="a mask"),
        pytest.param("attention_mask", torch.ones(2, 1, 3, 3), id="a mask per row"),
        pytest.param("labels", torch.tensor([0, 1]), id="one label per row"),
        pytest.param("position_ids", IDS, id="positions per row"),
    ],
)
def test_repeated(name: str, value: torch.Tensor) -> None:
    assert torch.equal(copies_of(**{name: value})[name], torch.cat([value] * 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("attention_mask", torch.ones(1, 1, 3, 3), id="a mask for all rows"),
        pytest.param("position_ids", torch.arange(3)[None], id="positions for all rows"),
        pytest.param("cache_position", torch.arange(2), id="positions in a cache, as many as rows"),
        pytest.param("logits_to_keep", torch.arange(2), id="positions of logits, as many as rows"),
        pytest.param("use_cache", False, id="a flag"),
        pytest.param("scale", torch.tensor(2.0), id="a scalar"),
        pytest.param("head_sizes", (1, 2), id="a tuple of numbers"),
    ],
)
def test_not_repeated(name: str, value: Any) -> None:
    assert copies_of(**{name: value})[name] is value


def test_positions_by_axis_have_the_batch_in_the_middle() -> None:
    positions = torch.arange(12).view(2, 2, 3)  # (axes, B, L)
    assert torch.equal(copies_of(position_ids=positions)["position_ids"], torch.cat([positions] * 3, dim=1))


def test_tensors_in_outputs_and_tuples_are_repeated() -> None:
    given = copies_of(encoder_outputs=BaseModelOutput(HIDDEN), pair=(HIDDEN, None, (HIDDEN,)))
    expected = torch.cat([HIDDEN] * 3)
    assert torch.equal(given["encoder_outputs"].last_hidden_state, expected)
    assert torch.equal(given["pair"][0], expected) and given["pair"][1] is None
    assert torch.equal(given["pair"][2][0], expected)


def test_arguments_by_position_and_kept_ones() -> None:
    labels = torch.tensor([0, 1])
    args, kwargs = repeated(("input_ids", "mask"), (IDS, None), {"labels": labels}, 2, frozenset({"labels"}))
    assert torch.equal(args[0], torch.cat([IDS, IDS])) and args[1] is None
    assert kwargs["labels"] is labels


def test_a_tensor_that_does_not_show_its_batch_is_refused() -> None:
    with pytest.raises(UnsupportedMethodError, match=r"patches has the shape \[5, 4\] and the batch has 2"):
        copies_of(patches=torch.zeros(5, 4))


@pytest.mark.parametrize(
    ("config", "puts"),
    [
        pytest.param(NeoMMEConfig(), True, id="patches at placeholders of the model itself"),
        pytest.param(LlavaConfig(), True, id="of a model made of several"),
        pytest.param(ViltConfig(), False, id="no: an image for each row"),
        pytest.param(LlamaConfig(), False, id="no: text"),
    ],
)
def test_arguments_may_count_images_where_there_are_placeholders(config: PreTrainedConfig, puts: bool) -> None:
    assert puts_by_index(config) is puts
