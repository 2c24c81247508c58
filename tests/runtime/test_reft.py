"""ReFT: which positions are edited and how, whatever the padding, cache, composition or checkpointing."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForSeq2SeqLM, DynamicCache, PreTrainedConfig, PreTrainedModel, StaticCache

from adapter_runtime import (
    AdapterSetup,
    Average,
    BatchSplit,
    DiReftConfig,
    Fuse,
    LoReftConfig,
    MultiTask,
    NoReftConfig,
    Parallel,
    ReftConfig,
    Split,
    Stack,
    init,
)
from adapter_runtime.call.context import ForwardContext, thread
from adapter_runtime.call.rows import TokenSpans
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.reft import places
from adapter_runtime.methods.reft.module import EditShape, Reft
from adapter_runtime.methods.reft.orthonormal import OrthonormalRows, nearest_orthonormal
from adapter_runtime.methods.reft.positions import Stream, positions_of
from adapter_runtime.roles import LayerStack
from conformance.instances import read
from runtime_models import adapted, randomise, upstream

CONFIGS = [
    "loreft",
    "noreft",
    "direft",
    "loreft[tied_weights=True,suffix_positions=2,r=2]",
    "loreft[suffix_positions=2,non_linearity='relu',r=3]",
    "noreft[prefix_positions=0,suffix_positions=3]",
]
MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]],
}


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, 99, (3, 7), generator=torch.Generator().manual_seed(3))


def with_adapter(kind: str, config: Any, attention: str = "eager") -> PreTrainedModel:
    model = adapted(kind, attention)
    model.add_adapter("a", config, set_active=True)
    randomise(model, "a")
    return model.eval()


def written_out(unit: Any, state: torch.Tensor) -> torch.Tensor:
    """One edit of one state [H], by the formula of the paper."""
    config, rows = unit.config, unit.rows()
    latent = unit.learned_source.weight @ state + unit.learned_source.bias
    if config.non_linearity == "relu":
        latent = latent.relu()
    if config.subtract_projection:
        latent = latent - rows @ state
    return state + rows.T @ latent


def edited(reft: Reft, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A loop over rows and positions in plain Python: what the layer does at once."""
    config, result = reft.config, hidden.clone()
    for row in range(hidden.shape[0]):
        real = mask[row].nonzero().flatten().tolist()
        suffix = real[max(0, len(real) - config.suffix_positions) :] if config.suffix_positions else []
        prefix = [position for position in real[: config.prefix_positions] if position not in suffix]
        for position in prefix:
            result[row, position] = written_out(reft.units[0], hidden[row, position])
        for position in suffix:
            result[row, position] = written_out(reft.units[-1], hidden[row, position])
    return result


def with_hooks(model: PreTrainedModel, kind: str, mask: torch.Tensor) -> PreTrainedModel:
    """Upstream, with the edits of `model` as plain hooks."""
    plain = upstream(kind)
    layers = dict(plain.named_modules())
    names = {module: name for name, module in model.named_modules()}
    for _, layer in model.iter_layers():
        reft = layer.reft_layer.refts["a"]

        def hook(module: Any, args: Any, output: Any, reft: Reft = reft) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            result = edited(reft, hidden, mask)
            return (result, *output[1:]) if isinstance(output, tuple) else result

        layers[names[layer]].register_forward_hook(hook)
    return plain


@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_equals_upstream_with_hooks_in_plain_torch(kind: str, config: str, padding: str, ids: torch.Tensor) -> None:
    model = with_adapter(kind, config)
    mask = torch.tensor(MASKS[padding]) if MASKS[padding] is not None else None
    real = torch.ones_like(ids) if mask is None else mask
    with torch.no_grad():
        outputs = model(ids, attention_mask=mask, output_hidden_states=True)
        expected = with_hooks(model, kind, real)(ids, attention_mask=mask, output_hidden_states=True)
    assert_close(outputs[0][real.bool()], expected[0][real.bool()])
    assert not torch.allclose(outputs[0], upstream(kind)(ids, attention_mask=mask)[0])
    for given, wanted in zip(outputs.hidden_states, expected.hidden_states, strict=True):  # recorded with the edit
        assert_close(given[real.bool()], wanted[real.bool()])


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_states_are_recorded_with_the_edit_where_upstream_recorded_before_the_adapter_came(
    kind: str, ids: torch.Tensor
) -> None:
    model = adapted(kind)
    model(ids, output_hidden_states=True)  # puts upstream's hooks in
    model.add_adapter("a", "loreft", set_active=True)
    randomise(model, "a")
    given = model(ids, output_hidden_states=True).hidden_states
    expected = with_hooks(model, kind, torch.ones_like(ids))(ids, output_hidden_states=True).hidden_states
    for state, wanted in zip(given, expected, strict=True):
        assert_close(state, wanted)


def test_the_comparison_notices_a_wrong_position(ids: torch.Tensor) -> None:
    model = with_adapter("llama", "loreft")
    wrong = torch.tensor(MASKS["left"])
    with torch.no_grad():
        given = model(ids)[0]
        expected = with_hooks(model, "llama", wrong)(ids)[0]
    assert not torch.allclose(given, expected, atol=1e-3)


@pytest.mark.parametrize("config", ["loreft[suffix_positions=2]", "noreft[suffix_positions=5]"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_outputs_do_not_depend_on_what_stands_in_padded_places(config: str, padding: str, ids: torch.Tensor) -> None:
    model, mask = with_adapter("bert", config), torch.tensor(MASKS[padding])
    other = torch.where(mask.bool(), ids, torch.full_like(ids, 7))
    with torch.no_grad():
        first, second = (model(given, attention_mask=mask)[0] for given in (ids, other))
    assert_close(first[mask.bool()], second[mask.bool()])


# Defect 14: positions under a cache and padding


def decoded(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> torch.Tensor:
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(ids, attention_mask=mask, **options)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_beams_begin_and_end_where_the_row_does_that_they_go_on_from(model_type: str) -> None:
    """With ids for the decoder, its spans are read before rows become beams; without a cache all positions are edited again."""
    known = read(model_type)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(known.config()).double().eval()
    init(model)
    model.add_adapter("a", "loreft[prefix_positions=0,suffix_positions=1,r=2]")
    model.double()
    randomise(model, "a")
    model.set_active_adapters("a")
    encoded = {name: value for name, value in known.inputs().items() if name != "decoder_input_ids"}
    options: dict[str, Any] = {
        "decoder_input_ids": torch.tensor([[5, 9], [7, 8], [6, 6]]), "decoder_start_token_id": 1, "num_beams": 2, "max_new_tokens": 4, "min_new_tokens": 4,
        "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True, "output_scores": True,
    }  # fmt: skip
    with_cache, without = (model.generate(**encoded, **options, use_cache=use) for use in (True, False))
    for one, two in zip(with_cache.scores, without.scores, strict=True):
        assert_close(one, two)


def test_spans_of_rows_that_are_not_those_of_beams_stay() -> None:
    three, four = (TokenSpans.read(None, rows, 6, 0, 0, torch.device("cpu")) for rows in (3, 4))
    assert four.after(three) is four and three.after(four) is three


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("config", CONFIGS)
def test_defect_14_generation_with_a_cache_equals_that_without(config: str, padding: str, ids: torch.Tensor) -> None:
    model = with_adapter("llama_lm", config, "sdpa")
    mask = torch.ones_like(ids) if MASKS[padding] is None else torch.tensor(MASKS[padding])
    mask[:, 2:] = 1  # at least as many tokens as are edited
    cached = decoded(model, ids, mask, use_cache=True)
    assert torch.equal(cached, decoded(model, ids, mask, use_cache=False))
    assert torch.equal(cached, decoded(model, ids, mask, cache_implementation="static"))
    beams = {"num_beams": 3, "use_cache": True}
    assert torch.equal(decoded(model, ids, mask, **beams), decoded(model, ids, mask, **{**beams, "use_cache": False}))
    model.set_active_adapters(None)
    assert not torch.equal(cached, decoded(model, ids, mask, use_cache=True)), "the edits change nothing"


@pytest.mark.parametrize("config", ["loreft", "direft[prefix_positions=2]"])
@pytest.mark.parametrize("mask", [[[1], [1], [1]], [[0, 1], [1, 1], [0, 1]]], ids=["one token", "padded"])
def test_a_prompt_that_is_shorter_than_what_is_edited_goes_on_being_edited(
    config: str, mask: list[list[int]], ids: torch.Tensor
) -> None:
    """As in training on a whole text. (A decoder of an encoder-decoder starts from one token.)"""
    model, given = with_adapter("llama_lm", config, "sdpa"), torch.tensor(mask)
    tokens = ids[:, : given.shape[1]]
    ways: list[dict[str, Any]] = [{}, {"use_cache": False}, {"cache_implementation": "static"}]
    found = [decoded(model, tokens, given, **way) for way in ways]
    with torch.no_grad():
        for _ in range(5):
            positions = (given.cumsum(-1) - 1).clamp_min(0)
            last = model(tokens, attention_mask=given, position_ids=positions, use_cache=False).logits[:, -1]
            tokens = torch.cat([tokens, last.argmax(-1, keepdim=True)], dim=1)
            given = torch.cat([given, given.new_ones(3, 1)], dim=1)
    assert all(torch.equal(way, tokens) for way in found)


def test_a_window_does_not_hide_where_a_row_begins() -> None:
    real = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    window = torch.ones(6, 6).tril().triu(-1).bool() & real.bool()[:, None, None]  # each token sees two
    for mask in (window, torch.zeros(window.shape).masked_fill(~window, -1e9)):
        spans = TokenSpans.read(mask, 2, 6, 0, 0, real.device)
        assert (spans.first.tolist(), spans.end.tolist()) == ([2, 0], [6, 6])


def logits_of_steps(model: PreTrainedModel, ids: torch.Tensor, prompt: int, cache: Any) -> torch.Tensor:
    """The logits of a prompt and of single tokens after it, by a loop of the caller's own."""
    steps = [ids[:, :prompt], *ids[:, prompt:].split(1, dim=1)]
    return torch.cat([model(step, past_key_values=cache, use_cache=True).logits for step in steps], dim=1)


@pytest.mark.parametrize("prompt", [2, 5])
@pytest.mark.parametrize("static", [False, True])
def test_a_loop_with_a_cache_equals_one_forward_where_first_tokens_are_edited(
    static: bool, prompt: int, ids: torch.Tensor
) -> None:
    model = with_adapter("llama_lm", "loreft", "sdpa")
    cache = StaticCache(config=model.config, max_cache_len=10) if static else DynamicCache(config=model.config)
    with torch.no_grad():
        assert_close(logits_of_steps(model, ids, prompt, cache), model(ids, use_cache=False).logits)


@pytest.mark.parametrize("static", [False, True])
def test_new_tokens_of_a_loop_with_a_cache_are_not_edited_as_if_they_ended_the_prompt(
    static: bool, ids: torch.Tensor
) -> None:
    model = with_adapter("llama_lm", "loreft[prefix_positions=0,suffix_positions=2]", "sdpa")
    cache = StaticCache(config=model.config, max_cache_len=10) if static else DynamicCache(config=model.config)
    mask = torch.zeros_like(ids)
    mask[:, 3:5] = 1  # what an edit at the end of a prompt of five tokens sees
    with torch.no_grad():
        given = logits_of_steps(model, ids, 5, cache)
        plain = upstream("llama_lm", "sdpa")
        for index, (_, layer) in enumerate(model.iter_layers()):
            reft = layer.reft_layer.refts["a"]
            plain.model.layers[index].register_forward_hook(lambda m, a, h, reft=reft: edited(reft, h, mask))
        assert_close(given, plain(ids, use_cache=False).logits)


def test_a_prompt_that_goes_on_after_a_cache_has_its_end_edited(ids: torch.Tensor) -> None:
    """The second turn of a conversation: `generate` gets a cache that holds the first."""
    model = with_adapter("llama_lm", "loreft[suffix_positions=2]", "sdpa")
    cache = DynamicCache(config=model.config)
    context = ForwardContext(model.model, is_generation=True)
    with torch.no_grad():
        model(ids[:, :4], past_key_values=cache)
        thread.context = context
        try:
            model(ids[:, 4:], past_key_values=cache, attention_mask=torch.ones_like(ids))
            positions = context.spans["self"]
        finally:
            thread.context = None
    assert (positions.past, positions.end.tolist()) == (4, [7, 7, 7])
    index, missing = positions_of_spans(positions, EditShape(3, 2), 3)
    assert missing.tolist() == [[True, True, True, False, False]] * 3
    assert index[:, 3:].tolist() == [[1, 2]] * 3


def positions_of_spans(
    spans: TokenSpans, shape: EditShape, length: int, stack: str = "self", tokens_first: bool = False
) -> Any:
    """Index [B, P] and mask [B, P] for one shape."""
    generation = ForwardContext(is_generation=True)
    context = ForwardContext(generation=generation)
    generation.spans[stack] = context.spans[stack] = spans
    thread.context = context
    try:
        positions = positions_of(Stream(stack, 4, tokens_first), (shape,), torch.zeros(len(spans.first), length, 4))
    finally:
        thread.context = None
    assert positions is not None
    return positions[0][..., 0], positions[1][..., 0]


def test_short_rows_are_clipped_and_the_end_comes_first() -> None:
    first = torch.tensor([0, 2, 4, 0])
    spans = TokenSpans(first, torch.tensor([6, 6, 5, 0]), 0, 6)  # the last row has no token at all
    index, missing = positions_of_spans(spans, EditShape(3, 2), 6)
    assert index.min() >= 0 and index.max() <= 5
    chosen = [
        [i for i, no in zip(*row, strict=True) if not no] for row in zip(index.tolist(), missing.tolist(), strict=True)
    ]
    assert chosen == [[0, 1, 2, 4, 5], [2, 3, 4, 5], [4], []]


def test_what_stands_behind_the_tokens_is_not_edited() -> None:
    first = torch.tensor([0, 1])
    spans = TokenSpans(first, torch.tensor([4, 3]), 0, 4)
    index, missing = positions_of_spans(spans, EditShape(1, 2), 9, tokens_first=True)
    assert index.tolist() == [[0, 2, 3], [1, 1, 2]]
    assert missing.tolist() == [[False] * 3, [True, False, False]]
    with pytest.raises(UnsupportedMethodError, match="9 positions where there are 4 tokens"):
        positions_of_spans(spans, EditShape(1, 2), 9)


def test_a_step_of_one_token_has_no_second_one_behind_it() -> None:
    spans = TokenSpans(torch.tensor([0]), torch.tensor([1]), 0, 1)
    _, missing = positions_of_spans(spans, EditShape(3, 0), 3, tokens_first=True)
    assert missing.tolist() == [[False, True, True]]


def test_layers_of_an_encoder_and_of_a_decoder_look_at_their_own_tokens() -> None:
    context = ForwardContext()
    zeros = torch.zeros(1, dtype=torch.long)
    context.spans = {"encoder": TokenSpans(zeros + 2, zeros + 4, 0, 5), "self": TokenSpans(zeros, zeros + 3, 0, 3)}
    thread.context = context
    try:
        encoder = positions_of(Stream("encoder", 4), (EditShape(1, 0),), torch.zeros(1, 5, 4))
        decoder = positions_of(Stream("self", 4), (EditShape(1, 0),), torch.zeros(1, 3, 4))
        pixels = positions_of(Stream("", 4), (EditShape(1, 0),), torch.zeros(1, 5, 4))  # not what the mask is about
        with pytest.raises(UnsupportedMethodError, match="9 positions where there are 5 tokens, and rows are padded"):
            positions_of(Stream("encoder", 4), (EditShape(1, 0),), torch.zeros(1, 9, 4))
    finally:
        thread.context = None
    assert encoder is not None and decoder is not None and pixels is not None
    assert [found[0].flatten()[0].item() for found in (encoder, decoder, pixels)] == [2, 0, 0]


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_positions_are_those_of_tokens_where_a_prompt_stands_in_front(
    kind: str, padding: str, ids: torch.Tensor
) -> None:
    model = with_adapter(kind, "loreft[suffix_positions=1]")
    model.add_adapter("p", "prompt_tuning[prompt_length=4]")
    mask = torch.ones_like(ids) if MASKS[padding] is None else torch.tensor(MASKS[padding])
    mask[:, 3:] = 1  # no row is shorter than what is edited
    states = []
    for setup in ("p", Stack("p", "a")):
        model.set_active_adapters(setup)
        with torch.no_grad():
            states.append(model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1])
    is_edited = (states[0] != states[1]).any(dim=-1)
    for row, first in zip(is_edited, mask.argmax(dim=1).tolist(), strict=True):
        assert row.nonzero().flatten().tolist() == [4 + first, 5 + first, 6 + first, 10]


def test_a_prompt_between_the_tokens_is_refused() -> None:
    model = with_adapter("bert", "loreft")
    model.add_adapter("p", "prompt_tuning[combine='prefix_after_bos']")
    with pytest.raises(UnsupportedMethodError, match="between the tokens"):
        model.set_active_adapters(Stack("p", "a"))
    assert model.active_adapters == Stack("a")


# Orthonormality: defects 11 and 21


def torch_projection(rows: int, width: int) -> nn.Linear:
    return nn.utils.parametrizations.orthogonal(nn.Linear(width, rows, bias=False))


@pytest.mark.parametrize(("rows", "width"), [(1, 8), (3, 8), (8, 8)])
def test_the_projection_is_that_of_torch_with_the_same_tensors(rows: int, width: int) -> None:
    theirs, ours = torch_projection(rows, width), OrthonormalRows(width, rows)
    original = theirs.parametrizations.weight.original
    with torch.no_grad():
        changed = torch.randn(rows, width) * 0.3
        if rows != width:
            changed.fill_diagonal_(-1.0)
        original.copy_(changed)
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert_close(ours.rows(), theirs.weight)
    direction = torch.randn(rows, width)
    for weight in (ours.rows(), theirs.weight):
        (weight * direction).sum().backward()
    assert_close(ours.parametrizations.weight.original.grad, original.grad)


def assert_orthonormal(rows: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert_close(rows @ rows.mT, torch.eye(len(rows), dtype=rows.dtype), atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_defect_11_weight_decay_leaves_the_projection_orthonormal(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours = OrthonormalRows(8, 2)
    ours.parametrizations.weight.original.data.tril_(-1).add_(torch.randn(2, 8) * 0.1).fill_diagonal_(-1.0)
    target = torch.randn(2, 8)
    optimizer = kind(ours.parameters(), lr=0.05, weight_decay=0.1)
    signs = ours.parametrizations.weight.signs()
    for _ in range(100):
        optimizer.zero_grad()
        (ours.rows() - target).square().sum().backward()
        optimizer.step()
        assert_orthonormal(ours.rows())
    assert ours.parametrizations.weight.original.diagonal().abs().max() < 0.9, "the diagonal did not decay"
    assert torch.equal(ours.parametrizations.weight.signs(), signs)
    file = ours.state_dict()
    assert torch.equal(file["parametrizations.weight.original"].diagonal(), torch.tensor([-1.0, -1.0]))
    theirs = torch_projection(2, 8)
    theirs.load_state_dict(file)
    assert_close(theirs.weight, ours.rows())  # what `adapters` reads is what was trained


def test_defect_11_weight_decay_alone_pulls_the_rows_back_to_where_they_began() -> None:
    ours = OrthonormalRows(8, 2)
    start = ours.rows().detach().clone()
    with torch.no_grad():
        ours.parametrizations.weight.original.add_(torch.randn(2, 8).tril(-1) + torch.randn(2, 8).triu(1))
        away = (ours.rows() - start).norm()
        ours.parametrizations.weight.original.mul_(1e-4)
        assert (ours.rows() - start).norm() < away * 1e-2
        assert_orthonormal(ours.rows())


def test_a_model_trained_with_weight_decay_still_edits_along_orthonormal_rows(ids: torch.Tensor) -> None:
    model = with_adapter("bert", "loreft[r=2]")
    model.train_adapter("a")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.5)
    for _ in range(10):
        optimizer.zero_grad()
        model(ids)[0].square().mean().backward()
        optimizer.step()
    for _, layer in model.iter_layers():
        assert_orthonormal(layer.reft_layer.refts["a"].units[0].rows().detach())


@pytest.mark.parametrize("config", ["loreft[r=4]", "noreft", "direft"])
def test_defect_21_half_precision(config: str, ids: torch.Tensor) -> None:
    model = adapted("llama").to(torch.bfloat16)
    model.add_adapter("a", config, set_active=True)
    assert {parameter.dtype for _, parameter in model.adapter_parameters("a")} == {torch.bfloat16}
    model.train_adapter("a")
    model(ids)[0].float().square().sum().backward()
    unit = model.layers[0].reft_layer.refts["a"].units[0]
    assert all(parameter.grad is not None for parameter in unit.parameters())
    if config.startswith("loreft"):
        assert_orthonormal(unit.rows().detach(), tolerance=1e-4)


def test_an_adapter_has_its_own_type_if_its_config_says_so(ids: torch.Tensor) -> None:
    model = adapted("llama").to(torch.bfloat16)
    model.add_adapter("a", LoReftConfig(dtype="float32"), set_active=True)
    assert {parameter.dtype for _, parameter in model.adapter_parameters("a")} == {torch.float32}
    assert model(ids)[0].dtype is torch.bfloat16


def test_average_of_orthonormal_projections_is_the_nearest_orthonormal_one() -> None:
    first, second, target = (Reft(LoReftConfig(r=2, suffix_positions=1), 8) for _ in range(3))
    target.average([first, second], [0.7, 0.3])
    for index in range(2):
        units = [reft.units[index] for reft in (first, second)]
        rows = target.units[index].rows()
        assert_orthonormal(rows)
        left, _, right = torch.linalg.svd(0.7 * units[0].rows() + 0.3 * units[1].rows(), full_matrices=False)
        assert_close(rows, left @ right)
        bias = 0.7 * units[0].learned_source.bias + 0.3 * units[1].learned_source.bias
        assert_close(target.units[index].learned_source.bias, bias)
    target.average([first, first], [0.5, 0.5])
    assert_close(target.units[0].rows(), first.units[0].rows())


def test_an_average_in_which_directions_cancel_out_is_refused() -> None:
    rows = OrthonormalRows(8, 2).rows()
    with pytest.raises(InvalidConfigError, match="cancel out"):
        nearest_orthonormal([rows, rows], [1.0, -1.0])


# Configs: defects 7 and 27


@pytest.mark.parametrize("config", [NoReftConfig(), DiReftConfig(), LoReftConfig(r=3), DiReftConfig(layers=[0, 2])])
def test_defect_7_files_tell_direft_from_noreft(config: ReftConfig, tmp_path: Path, ids: torch.Tensor) -> None:
    model = with_adapter("llama", config)
    model.save_adapter(tmp_path, "a")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["config"]["subtract_projection"] is (
        config.subtract_projection
    )
    fresh = adapted("llama")
    fresh.load_adapter(tmp_path, set_active=True)
    with torch.no_grad():
        assert torch.equal(fresh(ids)[0], model(ids)[0])


def test_defect_7_a_file_that_does_not_tell_is_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    silent = {name: value for name, value in DiReftConfig().to_dict().items() if name != "subtract_projection"}
    assert AdapterConfig.from_dict(silent) == NoReftConfig()
    assert "subtract_projection" in caplog.text
    caplog.clear()
    AdapterConfig.from_dict(DiReftConfig().to_dict())
    AdapterConfig.from_dict({**LoReftConfig().to_dict()})
    assert caplog.text == ""


def test_defect_27_a_seed_of_zero_counts_and_the_global_generator_goes_on() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (Reft(LoReftConfig(init_weights_seed=0), 8) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    for own, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(own, other)
    assert not torch.equal(first.units[0].rows(), Reft(LoReftConfig(init_weights_seed=1), 8).units[0].rows())


@pytest.mark.parametrize(
    "options",
    [
        {"prefix_positions": 0},
        {"prefix_positions": -1},
        {"r": 0},
        {"dropout": 1.0},
        {"layers": "some"},
        {"dtype": "int8"},
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError):
        LoReftConfig(**options)


@pytest.mark.parametrize(
    "config",
    [
        LoReftConfig(layers=[3]),
        LoReftConfig(r=33),
        NoReftConfig(non_linearity="rely"),
        NoReftConfig(output_reft=False),
        NoReftConfig(layers=[]),
    ],
)
def test_a_refused_adapter_leaves_the_model_as_it_was(config: ReftConfig, ids: torch.Tensor) -> None:
    model = adapted("llama")
    before = [*model.state_dict(), *(name for name, _ in model.named_modules())]
    with pytest.raises(InvalidConfigError):
        model.add_adapter("a", config)
    assert [*model.state_dict(), *(name for name, _ in model.named_modules())] == before
    assert not any(layer._forward_hooks for layer in model.layers)
    assert torch.equal(model(ids)[0], upstream("llama")(ids)[0])


def test_only_the_layers_of_the_config_are_edited(ids: torch.Tensor) -> None:
    model = with_adapter("llama", LoReftConfig(layers=[1]))
    assert [hasattr(layer, "reft_layer") for layer in model.layers] == [False, True, False]
    assert set(model.get_adapter("a")) == {1}
    states = model(ids, output_hidden_states=True).hidden_states
    plain = upstream("llama")(ids, output_hidden_states=True).hidden_states
    assert torch.equal(states[1], plain[1]) and not torch.equal(states[2], plain[2])


# Files, training, copies


def test_the_exact_names_of_the_tensors() -> None:
    names = {
        "loreft": ["projection.parametrizations.weight.original", "projection.parametrizations.weight.0.base"],
        "noreft": ["projection.weight"],
    }
    for config, projection in names.items():
        for tied in (False, True):
            model = adapted("bert_lm")
            known = set(model.state_dict())
            model.add_adapter("a", f"{config}[tied_weights={tied}]")
            assert set(model.state_dict()) - known == {
                f"bert.encoder.layer.{layer}.reft_layer.refts.a.units.{unit}.{key}"
                for layer in range(3)
                for unit in range(1 if tied else 2)
                for key in ["learned_source.weight", "learned_source.bias", *projection]
            }


def test_what_is_trained_is_what_runs(ids: torch.Tensor) -> None:
    model = with_adapter("bert", "loreft")  # nothing is edited at the end: its unit gets no gradient
    model.train_adapter("a")
    model(ids)[0].square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained and all(".units.0." in name for name in trained)


def test_dropout_falls_on_the_edited_states_as_a_whole_in_training_only(ids: torch.Tensor) -> None:
    model = with_adapter("llama", LoReftConfig(layers=[0], dropout=0.5))
    kept = model(ids, output_hidden_states=True).hidden_states[1]
    model.train()
    dropped = model(ids, output_hidden_states=True).hidden_states[1]
    assert torch.equal(dropped[:, 3:], kept[:, 3:])
    is_zero = dropped[:, :3].abs() < 1e-6
    assert_close(dropped[:, :3][~is_zero], 2 * kept[:, :3][~is_zero])
    assert 0.2 < is_zero.float().mean() < 0.8


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_checkpointed_gradients_are_the_same(kind: str, use_reentrant: bool, ids: torch.Tensor) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = with_adapter(kind, LoReftConfig(suffix_positions=2, dropout=0.0))
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.train_adapter("a")
        for module in model.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(0)
        model(ids, attention_mask=torch.tensor(MASKS["left"]))[0].square().sum().backward()
        gradients.append([p.grad for _, p in model.adapter_parameters("a") if p.requires_grad])
    assert_close(*gradients)


def test_copies_and_pickles_edit_with_their_own_weights(ids: torch.Tensor) -> None:
    model = with_adapter("bert_lm", "loreft")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(copied(ids)[0], model(ids)[0])
        before = model(ids)[0]
        with torch.no_grad():
            for _, parameter in copied.adapter_parameters("a"):
                parameter.zero_()
        assert torch.equal(model(ids)[0], before) and not torch.allclose(copied(ids)[0], before)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_nothing_is_left_after_the_last_adapter(kind: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    before = [*model.state_dict(), *(name for name, _ in model.named_modules())]
    for name in ("a", "b"):
        model.add_adapter(name, "loreft")
    model.delete_adapter("a")
    assert all(hasattr(layer, "reft_layer") for _, layer in model.iter_layers())
    model.delete_adapter("b")
    assert [*model.state_dict(), *(name for name, _ in model.named_modules())] == before
    assert not any(layer._forward_hooks for _, layer in model.iter_layers())
    assert torch.equal(model(ids)[0], upstream(kind)(ids)[0])


# Composition


@pytest.fixture
def two() -> PreTrainedModel:
    model = adapted("llama")
    for name, config in {"a": "loreft[r=2]", "b": "noreft[prefix_positions=1,suffix_positions=2]"}.items():
        model.add_adapter(name, config)
        randomise(model, name, seed=ord(name))
    return model


def run(model: PreTrainedModel, setup: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        return model(ids, attention_mask=torch.tensor(MASKS["left"])[: len(ids)], **options)[0]


def test_rows_get_their_own_adapter(two: PreTrainedModel, ids: torch.Tensor) -> None:
    a, b, none = (run(two, setup, ids) for setup in ("a", "b", None))
    assert_close(run(two, BatchSplit("a", "b", batch_sizes=[1, 2]), ids), torch.cat([a[:1], b[1:]]))
    assert_close(run(two, Parallel("a", "b"), ids), torch.cat([a, b]))
    tasks = torch.tensor([1, 0, 1])
    assert_close(run(two, MultiTask("a", "b"), ids, task_ids=tasks), torch.stack([b[0], a[1], b[2]]))
    two.add_adapter("bn", "seq_bn")
    mixed = run(two, BatchSplit("a", "bn", batch_sizes=[1, 2]), ids)
    assert_close(mixed[:1], a[:1])
    assert_close(mixed[1:], run(two, "bn", ids)[1:])
    assert not torch.allclose(a, b) and not torch.allclose(a, none)


def test_a_stack_edits_one_after_the_other_and_an_average_takes_the_mean(
    two: PreTrainedModel, ids: torch.Tensor
) -> None:
    two.set_active_adapters(Stack("a", "b"))
    layer, hidden, mask = two.layers[0], torch.randn(3, 7, 32), torch.ones(3, 7)
    a, b = (layer.reft_layer.refts[name] for name in "ab")
    with torch.no_grad():
        assert_close(layer.reft_layer.edit_output(layer, (), {}, hidden), edited(b, edited(a, hidden, mask), mask))
        two.set_active_adapters(Average("a", "b", weights=[1, 3]))
        mean = 0.25 * edited(a, hidden, mask) + 0.75 * edited(b, hidden, mask)
        given, *rest = layer.reft_layer.edit_output(layer, (), {}, (hidden, "weights", None))
        assert_close(given, mean)
        assert rest == ["weights", None]


@pytest.mark.parametrize("setup", [Split("a", "b", splits=[3, 4]), Fuse("a", "b")])
def test_what_cannot_be_honoured_is_refused(two: PreTrainedModel, setup: Any) -> None:
    two.set_active_adapters("a")
    with pytest.raises((UnsupportedMethodError, ValueError)):
        two.set_active_adapters(setup)
    assert two.active_adapters == Stack("a")


def test_a_setup_of_the_thread_counts(two: PreTrainedModel, ids: torch.Tensor) -> None:
    a, b = run(two, "a", ids), run(two, "b", ids)
    with AdapterSetup("a"), torch.no_grad():
        assert_close(two(ids, attention_mask=torch.tensor(MASKS["left"]))[0], a)
    two.set_active_adapters("b", skip_layers=[0, 1, 2])
    assert_close(two(ids, attention_mask=torch.tensor(MASKS["left"]))[0], run(two, None, ids))
    assert not torch.allclose(a, b)


# Cost


class CountOperations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(model: PreTrainedModel, **inputs: torch.Tensor) -> int:
    with torch.no_grad(), CountOperations() as counter:
        model(**inputs, use_cache=False)
    return counter.count


def test_the_cost_of_an_edit(ids: torch.Tensor) -> None:
    model = adapted("llama", "sdpa")
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = operations(model, **inputs)
    assert plain == operations(upstream("llama", "sdpa"), **inputs)
    model.add_adapter("a", "loreft")
    assert operations(model, **inputs) == plain, "an adapter that is not active costs something"
    model.set_active_adapters("a")
    assert operations(model, **inputs) <= 1.6 * plain  # `adapters`: 2.15


def test_later_steps_of_a_generation_cost_nothing(ids: torch.Tensor) -> None:
    model = with_adapter("llama", "loreft", "sdpa")
    hidden = torch.zeros(3, 1, 32)
    generation = ForwardContext(model, is_generation=True)
    zeros = torch.zeros(3, dtype=torch.long)
    generation.spans["self"] = TokenSpans(zeros, zeros + 7, 0, 7)
    thread.context = ForwardContext(model, generation)
    thread.context.spans["self"] = TokenSpans(zeros, zeros + 7, 9, 1)  # no row can have fewer than three tokens by now
    try:
        with CountOperations() as counter:
            assert model.layers[0].reft_layer.edit_output(model.layers[0], (), {}, hidden) is None
    finally:
        thread.context = None
    assert counter.count == 0


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("config", ["loreft", "loreft[suffix_positions=2]", "direft"])
@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("bert", "eager")])
def test_one_graph(kind: str, attention: str, config: str, ids: torch.Tensor, fresh_compiler: None) -> None:
    model = with_adapter(kind, config, attention)
    model.train_adapter("a")
    model.eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    inputs = {"input_ids": ids, "attention_mask": torch.tensor(MASKS["left"])}
    outputs = [run(**inputs, use_cache=False)[0] for run in (model, compiled)]
    assert_close(*outputs)
    gradients = []
    for output in outputs:
        model.zero_grad()
        output.square().sum().backward()
        gradients.append([p.grad.clone() for _, p in model.adapter_parameters("a") if p.requires_grad])
    assert_close(*gradients)


def test_layers_that_run_no_rows_of_positions_are_left_out(monkeypatch: pytest.MonkeyPatch, ids: torch.Tensor) -> None:
    model = adapted("llama")
    base = type(model.adapters_base)
    (stack,) = base.layer_stacks
    parts = [layer for _, layer in model.iter_layers()]
    model.adapters_base.tower = nn.ModuleList(parts[:1])
    stacks = (LayerStack("tower", form="packed"), stack)
    monkeypatch.setattr(base, "layer_stacks", stacks)
    assert model.adapters_base.layers_of_form("packed") == {0}
    assert model.adapters_base.layers_of_form("packed", "") == set(range(len(parts) + 1))
    monkeypatch.setattr(base, "layer_stacks", (LayerStack("tower", form="packed"),))
    with pytest.raises(InvalidConfigError):
        model.add_adapter("a", config="loreft")
    monkeypatch.setattr(base, "layer_stacks", (stack,))
    model.add_adapter("a", config="loreft", set_active=True)
    model(input_ids=ids)


def test_a_step_of_generate_that_no_forward_of_the_model_is_around_is_refused() -> None:
    """Kosmos-2 generates with a model inside of it; which tokens of a step are a prompt's does not show."""
    states, shape = torch.zeros(2, 5, 4), EditShape(1, 0)
    thread.context = ForwardContext(is_generation=True)
    try:
        with pytest.raises(UnsupportedMethodError, match="past that forward"):
            positions_of(Stream("self", 4), (shape,), states)
        assert positions_of(Stream("", 4), (shape,), states)[0].shape == (2, 1, 4)  # an image has no later steps
        thread.context.is_in_base = True
        assert positions_of(Stream("self", 4), (shape,), states)[0].shape == (2, 1, 4)
    finally:
        thread.context = None


class Tower(PreTrainedModel):
    """Of images, with a model inside that does not say what it reads, and a table of tokens where one is given."""

    config_class = PreTrainedConfig
    main_input_name = "pixel_values"

    def __init__(self, table: nn.Module | None = None, inner: PreTrainedModel | None = None) -> None:
        super().__init__(PreTrainedConfig())
        self.table, self.inner = table, inner

    def get_input_embeddings(self) -> nn.Module:
        if self.table is None:
            raise NotImplementedError
        return self.table


class Unnamed(Tower):
    main_input_name = "input_ids"  # as upstream has it where a class says nothing


def test_a_model_that_does_not_say_what_it_reads_reads_what_the_one_around_it_does() -> None:
    vision, text = Tower(inner=Unnamed()), Tower(nn.Embedding(4, 4), Unnamed())
    other = Tower(inner=Unnamed(nn.Embedding(4, 4)))  # says so itself
    whole = Tower(nn.Embedding(4, 4))
    whole.parts = nn.ModuleList([vision, text, other])
    stacks = places._stacks(whole)
    assert [stacks[tower] for tower in (vision, text, other)] == ["", "self", ""]
    assert [stacks[tower.inner] for tower in (vision, text, other)] == ["", "self", "self"]


class OfStates(Unnamed):
    """What was embedded before comes in: Bros' encoder."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden_states


class OfPixels(Unnamed):
    """An input of its own, under whatever name: the vision towers of Ovis 2 and Step 3.7."""

    def forward(self, pixel_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return pixel_values


class OfSounds(OfStates):
    """Upstream says what comes in: Phi-4's encoder of sounds."""

    input_modalities = "audio"


def test_a_model_that_takes_neither_tokens_nor_what_was_embedded_reads_none() -> None:
    whole = Tower(nn.Embedding(4, 4))
    states, pixels, sounds = OfStates(), OfPixels(inner=OfStates()), OfSounds()
    pixels_of_tokens = OfPixels(nn.Embedding(4, 4))  # it has a table all the same
    whole.parts = nn.ModuleList([states, pixels, sounds, pixels_of_tokens])
    stacks = places._stacks(whole)
    assert [stacks[one] for one in (states, pixels, pixels.inner, sounds, pixels_of_tokens)] == [
        "self",
        "",
        "",
        "",
        "self",
    ]
    alone = OfPixels()
    assert places._stacks(alone)[alone] == ""


def test_a_tower_is_edited_in_the_steps_of_a_generation_whatever_the_text_goes_on_after() -> None:
    """In its first call beside a text, no step before it: its positions are all there is of an image."""
    states, shape = torch.zeros(2, 5, 4), EditShape(1, 0)
    thread.context = ForwardContext()
    thread.context.spans["self"] = TokenSpans(torch.tensor([1, 0]), torch.tensor([9, 9]), 8, 1)  # padded, and a cache
    try:
        index, missing = positions_of(Stream("", 4), (shape,), states)
        assert index[:, :, 0].tolist() == [[0], [0]] and not missing.any()
    finally:
        thread.context = None
