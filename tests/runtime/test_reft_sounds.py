"""ReFT in models of sounds, which make fewer positions of what they read: the mask of a layer tells which of these are real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    SEWDConfig,
    SEWDModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

import adapter_models
from adapter_models import NoReftConfig
from adapter_runtime.call.context import ForwardContext, thread
from adapter_runtime.call.rows import TokenSpans
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.reft.module import EditShape
from adapter_runtime.methods.reft.positions import Stream, positions_of
from adapter_runtime.methods.reft.told import UNTOLD, Told, place_of_mask, real_positions, told_by

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
WAVES = {
    **SMALL,
    "conv_dim": (8, 8),
    "conv_stride": (4, 4),
    "conv_kernel": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",  # of the first convolution: the other one reads the padding too
    "do_stable_layer_norm": True,
}
FRAMES = {**SMALL, "feature_projection_input_dim": 8, "position_embeddings_type": None}
REAL, ALL = 64, 160  # samples
SHAPE = EditShape(1, 2)


def adapted(model: PreTrainedModel) -> PreTrainedModel:
    adapter_models.init(model.eval())
    model.add_adapter("a", config="noreft[r=2,prefix_positions=1,suffix_positions=2]", set_active=True)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in model.adapter_parameters("a"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def sounds(length: int, *width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of `length`, of which the second one has zeros behind its first 64 (or, of frames, 8), and the mask of them."""
    real = REAL if not width else 8
    values = torch.randn(2, length, *width, generator=torch.Generator().manual_seed(1))
    values[1, real:] = 0
    mask = torch.ones(2, length, dtype=torch.long)
    mask[1, real:] = 0
    return values, mask


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_of_samples_gives_the_same_by_itself_and_in_a_padded_batch(attention: str) -> None:
    torch.manual_seed(0)
    model = adapted(Wav2Vec2Model(Wav2Vec2Config(**WAVES, attn_implementation=attention)))
    values, mask = sounds(ALL)
    with torch.no_grad():
        alone = model(values[1:, :REAL], attention_mask=mask[1:, :REAL]).last_hidden_state
        beside = model(values, attention_mask=mask).last_hidden_state
        plain = model(values[1:, :REAL]).last_hidden_state
        model.set_active_adapters(None)
        without = model(values[1:, :REAL]).last_hidden_state
    torch.testing.assert_close(beside[1:, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(plain, alone, atol=1e-5, rtol=1e-4)
    assert alone.shape[1] == 4 and not torch.allclose(alone[:, -1], without[:, -1], atol=1e-2)


def test_a_mask_by_which_scores_are_multiplied_is_read_as_such() -> None:
    """SEW-D, whose layers take it by position."""
    torch.manual_seed(0)
    config = SEWDConfig(
        **{**WAVES, "do_stable_layer_norm": False}, squeeze_factor=2, position_buckets=8, max_position_embeddings=32
    )
    model = adapted(SEWDModel(config))
    seen: list[torch.Tensor] = []
    layer = next(layer for _, layer in model.iter_layers())
    layer.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    values, mask = sounds(ALL)
    with torch.no_grad():
        model(values, attention_mask=mask)
        model.set_active_adapters(None)
        model(values, attention_mask=mask)
    moved = (seen[0] != seen[1]).any(-1).nonzero().tolist()
    assert seen[0].shape[1] == 5
    assert moved == [[0, 0], [0, 3], [0, 4], [1, 0], [1, 1]]


def test_a_layer_that_shortens_its_rows_is_left_out() -> None:
    """It is told the mask of what it was given, in which its own positions do not show."""
    torch.manual_seed(0)
    model = adapted(Wav2Vec2BertModel(Wav2Vec2BertConfig(**FRAMES, add_adapter=True, num_adapter_layers=1)))
    values, mask = sounds(16, 8)
    with torch.no_grad():
        alone = model(values[1:, :8], attention_mask=mask[1:, :8]).last_hidden_state
        beside = model(values, attention_mask=mask).last_hidden_state
        model.set_active_adapters(None)
        without = model(values[1:, :8], attention_mask=mask[1:, :8]).last_hidden_state
    torch.testing.assert_close(beside[1:, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone, without, atol=1e-2)


@pytest.fixture
def context() -> Iterator[ForwardContext]:
    thread.context = ForwardContext()
    thread.context.spans[""] = TokenSpans(torch.tensor([0, 0]), torch.tensor([90, 40]), 0, 90)  # samples, padded
    try:
        yield thread.context
    finally:
        thread.context = None


def edited(told: Told, rows: int = 2, length: int = 5) -> list[list[int]]:
    """The positions that are edited of each row."""
    index, missing = positions_of(Stream("", 4), (SHAPE,), torch.zeros(rows, length, 4), told)
    return [
        [int(place[0]) for place, is_none in zip(row, none, strict=True) if not is_none]
        for row, none in zip(index, missing, strict=True)
    ]


TWO_ROWS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
PAIRS = TWO_ROWS[:, None, None].expand(2, 2, 5, 5)
ADDED = (1 - PAIRS.float()) * torch.finfo(torch.float32).min


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(TWO_ROWS, id="of numbers"),
        pytest.param(TWO_ROWS.bool(), id="of truths"),
        pytest.param(TWO_ROWS.float(), id="of factors"),
        pytest.param(PAIRS.bool(), id="of pairs"),
        pytest.param(PAIRS[:, :1, :1].bool(), id="of keys, with the dimensions of pairs"),
        pytest.param(PAIRS * PAIRS.transpose(2, 3), id="of pairs, padding attends to nothing"),
        pytest.param(PAIRS.bool().tril(), id="of pairs that see nothing later"),
        pytest.param(ADDED, id="added to scores"),
        pytest.param(ADDED + torch.linspace(-9, 9, 25).view(5, 5), id="added to scores, with a bias of positions"),
    ],
)
def test_what_a_layer_is_told_counts_whatever_its_form(context: ForwardContext, mask: torch.Tensor) -> None:
    assert edited(Told(mask, True)) == [[0, 3, 4], [0, 1, 2]]


def test_padding_may_stand_in_front_and_between(context: ForwardContext) -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 0]])
    assert edited(Told(mask, True), length=6) == [[1, 3, 4], [4]]


def test_one_mask_of_pairs_for_all_rows_is_one_of_each(context: ForwardContext) -> None:
    assert edited(Told(PAIRS[1:].bool(), True)) == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(UNTOLD, id="no mask is named"),
        pytest.param(Told(TWO_ROWS[:, :4], True), id="a mask of something shorter"),
        pytest.param(Told(TWO_ROWS[:1], True), id="a mask of another number of rows"),
        pytest.param(Told(PAIRS[:, :, :3], True), id="pairs with other queries"),
        pytest.param(Told(PAIRS[:, 0].bool(), True), id="three dimensions"),
        pytest.param(Told("mask", True), id="no tensor"),
    ],
)
def test_what_does_not_show_which_positions_are_real_is_refused_where_rows_are_padded(
    context: ForwardContext, told: Told
) -> None:
    with pytest.raises(UnsupportedMethodError, match="5 positions where the mask has 90, and rows are padded"):
        edited(told)
    context.spans[""] = TokenSpans(torch.tensor([0, 0]), torch.tensor([90, 90]), 0, 90)
    assert edited(told, length=6) == [[0, 4, 5], [0, 4, 5]]


def test_a_layer_that_is_told_of_no_padding_sees_none(context: ForwardContext) -> None:
    """Upstream leaves out a mask that hides nothing: what is padded was less than one position."""
    assert edited(Told(None, True)) == [[0, 3, 4], [0, 3, 4]]


def test_layers_that_are_told_otherwise_are_edited_elsewhere(context: ForwardContext) -> None:
    first = edited(Told(TWO_ROWS, True))
    assert edited(Told(TWO_ROWS.flip(1), True)) != first == edited(Told(TWO_ROWS, True))


def test_tokens_are_where_the_call_says(context: ForwardContext) -> None:
    """A mask of pairs may hide real tokens: a window does."""
    context.spans["self"] = TokenSpans(torch.tensor([0, 0]), torch.tensor([5, 4]), 0, 5)
    index, _ = positions_of(Stream("self", 4), (SHAPE,), torch.zeros(2, 5, 4), Told(TWO_ROWS, True))
    assert index[:, :, 0].tolist() == [[0, 3, 4], [0, 2, 3]]


class Takes(nn.Module):
    def forward(self, hidden: torch.Tensor, beside: object = None, attention_mask: torch.Tensor | None = None) -> None:
        return None


def test_the_mask_is_found_by_name_and_by_place() -> None:
    place = place_of_mask(Takes())
    assert place == 2 and place_of_mask(nn.Linear(2, 2)) == -1
    assert told_by((0, 1, TWO_ROWS), {}, place).mask is TWO_ROWS
    assert told_by((0,), {"attention_mask": TWO_ROWS}, place).mask is TWO_ROWS
    assert told_by((0, 1, None), {}, place) == Told(None, True)
    assert told_by((0, 1), {}, place) is UNTOLD and told_by((0, 1, 2), {}, -1) is UNTOLD
    assert real_positions(UNTOLD, 2, 5) is None


def with_gradients(model: PreTrainedModel) -> list[torch.Tensor]:
    values, mask = sounds(ALL)
    model.zero_grad()
    model(values, attention_mask=mask).last_hidden_state.square().sum().backward()
    return [parameter.grad.clone() for _, parameter in model.adapter_parameters("a") if parameter.grad is not None]


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_layer_is_told_the_same(use_reentrant: bool) -> None:
    torch.manual_seed(0)
    off = {"layerdrop": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    off |= {"feat_proj_dropout": 0.0, "apply_spec_augment": False, "mask_time_prob": 0.0}
    model = Wav2Vec2Model(Wav2Vec2Config(**WAVES, **off))
    adapter_models.init(model)
    model.add_adapter("a", config=NoReftConfig(r=2, suffix_positions=2, dropout=0.0), set_active=True)
    model.train_adapter("a")
    model.train()
    expected = with_gradients(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    found = with_gradients(model)
    assert expected and any(gradient.any() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_one_graph() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = adapted(Wav2Vec2BertModel(Wav2Vec2BertConfig(**FRAMES, attn_implementation="eager")))
    values, mask = sounds(16, 8)
    with torch.no_grad():
        expected = model(values, attention_mask=mask).last_hidden_state
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        found = compiled(values, attention_mask=mask).last_hidden_state
        shorter = compiled(values[:, :12], attention_mask=mask[:, :12]).last_hidden_state
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(shorter[1, :8], expected[1, :8], atol=1e-5, rtol=1e-4)


def test_a_mask_that_marks_what_is_hidden_hides_nothing_where_it_is_empty() -> None:
    """Mask2Former's layers are given zeros for positions that are real."""
    real = real_positions(Told(torch.tensor([[False, False], [True, False]]), True), 2, 2)
    assert real is not None and real.tolist() == [[True, True], [True, False]]
