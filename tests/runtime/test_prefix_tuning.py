"""Prefixes in compositions, gates, ejecting, and the defects of `adapters` around them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BartModel, DynamicCache, LlamaConfig, LlamaModel

from adapter_models import AutoAdapterModel, Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack
from adapter_runtime import init
from adapter_runtime.errors import UnknownAdapterError, UnsupportedMethodError
from adapter_runtime.methods.configs.union import MAMConfig
from adapter_runtime.methods.prefix_tuning import masks
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prefix_tuning.masks import grow_bias
from adapter_runtime.methods.prefix_tuning.module import PrefixTuning
from conformance.tiny import tiny_config
from runtime_models import adapted, randomise, upstream

Inputs = dict[str, torch.Tensor]
LENGTHS = {"p": 3, "q": 5, "r": 3}
KINDS = [("bert", "eager"), ("bert", "sdpa"), ("llama", "eager"), ("llama", "sdpa")]


def prefixed(kind: str, attention: str = "eager", **further: str) -> Any:
    """A model with prefixes of lengths 3, 5 and 3, and further adapters."""
    model = adapted(kind, attention)
    configs = {name: f"prefix_tuning_flat[prefix_length={length}]" for name, length in LENGTHS.items()}
    for seed, (name, config) in enumerate({**configs, **further}.items(), start=1):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


def masked(inputs: Inputs, padding: bool) -> Inputs:
    return inputs if padding else {"input_ids": inputs["input_ids"]}


def states_under(model: Any, setup: Any, inputs: Inputs, **more: Any) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        states: torch.Tensor = model(**inputs, **more, use_cache=False)[0]
    return states


def rows_of(model: Any, setups: Sequence[Any], inputs: Inputs) -> torch.Tensor:
    """Row i as it is under setup i alone."""
    return torch.stack([states_under(model, setup, inputs)[row] for row, setup in enumerate(setups)])


# Blocks


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_stack_is_a_cache_with_the_later_prefix_in_front(attention: str, padding: bool, inputs: Inputs) -> None:
    model = prefixed("llama", attention)
    found = states_under(model, Stack("p", "q"), masked(inputs, padding))
    reference, cache = upstream("llama", attention), DynamicCache(config=model.config)
    tunings = [next(iter(model.prefix_tuning.prefix_tunings[name].values())) for name in ("q", "p")]
    for index, layers in enumerate(zip(*(tuning() for tuning in tunings), strict=True)):
        key, value = (torch.cat(parts, dim=1).expand(2, -1, -1, -1) for parts in zip(*layers, strict=True))
        cache.update(key, value, index)
    mask = torch.cat([torch.ones(2, 8, dtype=torch.long), inputs["attention_mask"]], 1) if padding else None
    positions = torch.arange(7)[None].expand(2, -1)
    expected = reference(
        inputs["input_ids"], attention_mask=mask, position_ids=positions, past_key_values=cache
    ).last_hidden_state
    real = inputs["attention_mask"].bool() if padding else torch.ones(2, 7, dtype=torch.bool)
    assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize(("kind", "attention"), KINDS)
@pytest.mark.parametrize("second", ["q", "r", "bn", Stack("r", "q")], ids=str)
def test_rows_see_the_prefix_of_their_adapter_alone(
    kind: str, attention: str, padding: bool, second: Any, inputs: Inputs
) -> None:
    model = prefixed(kind, attention, bn="seq_bn")
    inputs = masked(inputs, padding)
    first, other = (states_under(model, setup, inputs) for setup in ("p", second))
    assert not torch.allclose(first, other, atol=1e-3)
    found = states_under(model, BatchSplit("p", second, batch_sizes=[1, 1]), inputs)
    assert_close(found, torch.stack([first[0], other[1]]), rtol=1e-4, atol=1e-5)
    assert_close(states_under(model, Parallel("p", second), inputs), torch.cat([first, other]), rtol=1e-4, atol=1e-5)
    found = states_under(model, MultiTask("p", second), inputs, task_ids=torch.tensor([1, 0]))
    assert_close(found, torch.stack([other[0], first[1]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_blocks_in_a_stack_and_tasks_without_rows(attention: str, inputs: Inputs) -> None:
    model = prefixed("llama", attention)
    found = states_under(model, Stack("p", BatchSplit("q", "r", batch_sizes=[1, 1])), inputs)
    assert_close(found, rows_of(model, [Stack("p", "q"), Stack("p", "r")], inputs), rtol=1e-4, atol=1e-5)
    alone = states_under(model, "q", inputs)
    found = states_under(model, MultiTask("p", "q", "r"), inputs, task_ids=torch.tensor([1, 1]))
    assert_close(found, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", [False, True])
def test_rows_of_a_decoder_with_cross_attention(attention: str, padding: bool, inputs: Inputs) -> None:
    model = prefixed("bert_decoder", attention)
    generator = torch.Generator().manual_seed(5)
    inputs = {**masked(inputs, padding), "encoder_hidden_states": torch.randn(2, 7, 32, generator=generator)}
    if padding:
        inputs["encoder_attention_mask"] = inputs["attention_mask"].flip(-1)
    expected = rows_of(model, ["p", "q"], inputs)
    found = states_under(model, BatchSplit("p", "q", batch_sizes=[1, 1]), inputs)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_parallel_generation_gives_what_each_adapter_gives(inputs: Inputs) -> None:
    model = prefixed("llama_lm", "sdpa")
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = []
    for name in ("p", "q"):
        model.set_active_adapters(name)
        expected.append(model.generate(**inputs, **options))
    model.set_active_adapters(Parallel("p", "q"))
    assert torch.equal(model.generate(**inputs, **options), torch.cat(expected))
    assert torch.equal(model.generate(**inputs, **options, use_cache=False), torch.cat(expected))


def test_gradients_reach_the_prefixes_of_all_rows(inputs: Inputs) -> None:
    model = prefixed("llama")
    model.train_adapter(BatchSplit("p", "q", batch_sizes=[1, 1]))
    model(**inputs)[0].square().sum().backward()
    for name in ("p", "q"):
        for key, parameter in model.adapter_parameters(name):
            assert parameter.grad is not None, key
            assert (parameter.grad != 0).all(), key


@pytest.mark.parametrize("block", [Average("p", "q"), Split("p", "q", splits=[3, 4])], ids=repr)
def test_blocks_without_a_meaning_for_prefixes_are_refused(block: Any, inputs: Inputs) -> None:
    model = prefixed("bert")
    expected = states_under(model, "p", inputs)
    with pytest.raises(UnsupportedMethodError, match=f"{type(block).__name__} cannot be run with prefix tuning"):
        model.set_active_adapters(block)
    assert model.active_adapters == Stack("p")
    assert torch.equal(model(**inputs)[0], expected)


def test_a_fusion_of_prefixes_is_refused() -> None:
    with pytest.raises(UnsupportedMethodError):
        prefixed("bert").add_adapter_fusion(Fuse("p", "q"))


# What is done once


@pytest.mark.parametrize(
    ("kind", "setup", "kinds_of_masks"),
    [
        ("llama", "p", 1),
        ("bert_decoder", "p", 2),
        ("llama", Parallel("p", "q"), 1),
        ("bert_decoder", Parallel("p", "q"), 2),
    ],
    ids=str,
)
def test_masks_grow_once_per_call(
    kind: str, setup: Any, kinds_of_masks: int, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prefixed(kind, "sdpa")
    if kind == "bert_decoder":
        encoded = torch.randn(2, 5, 32)
        inputs = {
            **inputs,
            "encoder_hidden_states": encoded,
            "encoder_attention_mask": torch.ones(2, 5).tril(3).long(),
        }
    grown: list[int] = []
    original = masks._grow
    monkeypatch.setattr(masks, "_grow", lambda *args: (grown.append(1), original(*args))[1])
    states_under(model, setup, inputs)
    assert len(grown) == kinds_of_masks


def test_a_prefix_is_computed_once_per_call_for_all_layers(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = PrefixTuning.states
    monkeypatch.setattr(PrefixTuning, "states", lambda self: (calls.append(self.key), original(self))[1])
    model = prefixed("llama")
    states_under(model, Stack("p", "q"), inputs)
    assert calls == ["p.self_prefix.0", "q.self_prefix.0"]


class Operators(TorchDispatchMode):
    """Counts aten operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_flat_prefix_costs_two_operators_per_layer(attention: str, padding: bool, inputs: Inputs) -> None:
    config = LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=40, num_hidden_layers=12, num_attention_heads=4
    )
    config._attn_implementation = attention
    model: Any = LlamaModel(config).eval()
    inputs = masked(inputs, padding)

    def operators() -> int:
        with torch.no_grad(), Operators() as counter:
            model(**inputs, use_cache=False)
        return counter.count

    before = operators()
    init(model)
    model.add_adapter("p", "prefix_tuning_flat")
    assert operators() == before
    model.set_active_adapters("p")
    assert operators() <= 1.05 * before


# Defects of `adapters`


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama", "bert_decoder"])
def test_defect_3_a_prefix_has_the_same_effect_under_sdpa(kind: str, padding: bool, inputs: Inputs) -> None:
    inputs = masked(inputs, padding)
    found = [states_under(prefixed(kind, attention), "p", inputs) for attention in ("eager", "sdpa")]
    real = inputs["attention_mask"].bool() if padding else torch.ones(2, 7, dtype=torch.bool)
    assert_close(found[0][real], found[1][real], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1], states_under(prefixed(kind, "sdpa"), None, inputs), atol=1e-3)


def test_self_and_cross_attention_of_one_size_have_masks_of_their_own() -> None:
    """Without padding sdpa needs a mask for the causal attention, and none for the other."""
    ids, encoded = torch.randint(3, 99, (2, 7)), torch.randn(2, 7, 32)
    found = [
        states_under(prefixed("bert_decoder", attention), "p", {"input_ids": ids}, encoder_hidden_states=encoded)
        for attention in ("eager", "sdpa")
    ]
    assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defects_4_and_5_asking_for_attentions_changes_nothing(kind: str, padding: bool, inputs: Inputs) -> None:
    model = prefixed(kind, "sdpa")
    inputs = masked(inputs, padding)
    expected = states_under(model, "p", inputs)
    assert_close(states_under(model, "p", inputs, output_attentions=True), expected)
    model = prefixed(kind, "eager")
    model.set_active_adapters("p")
    attentions = model(**inputs, output_attentions=True).attentions
    assert {attention.shape[-2:] for attention in attentions} == {(7, 10)}
    assert all((attention[..., :3] > 0).all() for attention in attentions)


def test_defect_23_prefixes_can_be_added_after_saving_the_model(tmp_path: Path, inputs: Inputs) -> None:
    model = prefixed("bert")
    expected = states_under(model, "p", inputs)
    model.save_pretrained(tmp_path)
    assert torch.equal(states_under(model, "p", inputs), expected)
    model.add_adapter("late", "prefix_tuning[prefix_length=2]")
    model.train_adapter("late")
    model(**inputs)[0].sum().backward()
    assert all(parameter.grad is not None for _, parameter in model.adapter_parameters("late"))


# Ejecting


def control_keys(model: Any) -> list[str]:
    return [key for key in model.state_dict() if "prefix_tunings.a." in key]


@pytest.mark.parametrize("kind", ["bert", "llama_lm", "bert_decoder"])
def test_ejecting_keeps_the_outputs_and_drops_the_mlp(kind: str, tmp_path: Path, inputs: Inputs) -> None:
    model = adapted(kind)
    model.add_adapter("a", "prefix_tuning[prefix_length=3,use_gating=True]", set_active=True)
    randomise(model, "a")
    expected = states_under(model, "a", inputs)
    assert any(".wte." in key for key in control_keys(model))
    model.eject_prefix_tuning("a")
    assert all(key.endswith(".control_trans") for key in control_keys(model))
    assert torch.equal(states_under(model, "a", inputs), expected)
    assert model.adapters_config.get("a") == PrefixTuningConfig(flat=True, prefix_length=3, use_gating=True)
    model.eject_prefix_tuning("a")
    assert torch.equal(states_under(model, "a", inputs), expected)
    model.save_adapter(tmp_path, "a")
    other = adapted(kind)
    other.load_adapter(tmp_path)
    assert torch.equal(states_under(other, "a", inputs), expected)
    model.train_adapter("a")
    model(**inputs)[0].sum().backward()
    trained = {key: parameter for key, parameter in model.named_parameters() if "self_prefix.control_trans" in key}
    assert len(trained) == 1
    assert all(parameter.grad is not None for parameter in trained.values())


def test_ejecting_from_a_union_flattens_the_prefix_alone(inputs: Inputs) -> None:
    model = adapted("bert")
    model.add_adapter("a", MAMConfig())
    randomise(model, "a")
    expected = states_under(model, "a", inputs)
    model.eject_prefix_tuning("a")
    assert torch.equal(states_under(model, "a", inputs), expected)
    prefix, bottleneck = model.adapters_config.get("a").configs
    assert (prefix, bottleneck) == (MAMConfig().configs[0].replace(flat=True), MAMConfig().configs[1])


def test_ejecting_an_inactive_trained_prefix_keeps_what_is_trained() -> None:
    model = adapted("llama")
    for name in ("a", "frozen"):
        model.add_adapter(name, "prefix_tuning[prefix_length=3]")
    model.train_adapter("a")
    for _, parameter in model.adapter_parameters("frozen"):
        parameter.requires_grad_(False)
    for name, trained in (("a", True), ("frozen", False)):
        model.eject_prefix_tuning(name)
        assert {parameter.requires_grad for _, parameter in model.adapter_parameters(name)} == {trained}


def test_only_prefixes_can_be_ejected() -> None:
    model = adapted("llama")
    model.add_adapter("lora", "lora")
    with pytest.raises(UnsupportedMethodError, match="no prefix"):
        model.eject_prefix_tuning("lora")
    with pytest.raises(UnknownAdapterError):
        model.eject_prefix_tuning("nobody")


# Options


@pytest.mark.parametrize("shared", [True, False])
def test_gates_scale_keys_and_values_and_are_recorded(shared: bool, inputs: Inputs) -> None:
    model = adapted("llama")
    options = f"prefix_length=3,use_gating=True,shared_gating={shared}"
    model.add_adapter("a", f"prefix_tuning_flat[{options}]")
    model.add_adapter("plain", "prefix_tuning_flat[prefix_length=3]")
    randomise(model, "a")
    key_gate, value_gate = (
        (0.5, 0.5) if shared else (torch.sigmoid(torch.tensor(1.0)), torch.sigmoid(torch.tensor(-1.0)))
    )
    with torch.no_grad():
        for layer in model.layers:
            gate = layer.self_attn.prefix_tuning.prefix_gates["a"]
            gate.weight.zero_()
            gate.bias.copy_(torch.zeros(1) if shared else torch.tensor([1.0, -1.0]))
        gated = model.prefix_tuning.prefix_tunings["a"]["self_prefix"].control_trans
        scaled = (
            gated.view(3, 3, 2, -1) * torch.tensor([key_gate, value_gate])[:, None]
        )  # (P, layers, key or value, ...)
        model.prefix_tuning.prefix_tunings["plain"]["self_prefix"].control_trans.copy_(scaled.reshape(-1))
    expected = states_under(model, "plain", inputs)
    assert_close(states_under(model, "a", inputs), expected, rtol=1e-4, atol=1e-5)
    model.set_active_adapters("a")
    scores = model(**inputs, output_adapter_gating_scores=True).adapter_gating_scores
    assert list(scores["a"]) == [0, 1, 2]
    recorded = torch.from_numpy(scores["a"][1]["self_prefix"])
    wanted = torch.full((2,), 0.5) if shared else torch.tensor([[key_gate, value_gate]] * 2)
    assert_close(recorded, wanted)


def test_a_gate_reads_the_states_of_its_own_rows(inputs: Inputs) -> None:
    model = adapted("llama")
    for seed, (name, length) in enumerate((("a", 3), ("b", 4)), start=1):
        model.add_adapter(name, f"prefix_tuning_flat[prefix_length={length},use_gating=True]")
        randomise(model, name, seed)
    expected = rows_of(model, ["a", "b"], inputs)
    found = states_under(model, BatchSplit("a", "b", batch_sizes=[1, 1]), inputs)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_left_out_have_no_prefix(inputs: Inputs) -> None:
    model = adapted("llama")
    model.add_adapter("a", "prefix_tuning_flat[prefix_length=3,leave_out=[0,2]]")
    model.add_adapter("b", "prefix_tuning_flat[prefix_length=2]")
    for name in ("a", "b"):
        randomise(model, name)
    assert model.prefix_tuning.prefix_tunings["a"]["self_prefix"].control_trans.numel() == 3 * 2 * 2 * 12
    base = model(**inputs, output_hidden_states=True).hidden_states
    model.set_active_adapters("a")
    found = model(**inputs, output_hidden_states=True).hidden_states
    assert torch.equal(found[1], base[1])
    assert not torch.allclose(found[2], base[2], atol=1e-3)
    expected = rows_of(model, ["a", "b"], inputs)
    states = states_under(model, BatchSplit("a", "b", batch_sizes=[1, 1]), inputs)
    assert_close(states, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cross", [True, False])
def test_cross_attention_may_go_without(cross: bool) -> None:
    model = adapted("bert_decoder")
    model.add_adapter("a", f"prefix_tuning_flat[cross_prefix={cross}]")
    found = set(model.prefix_tuning.prefix_tunings["a"])
    assert found == ({"self_prefix", "cross_prefix"} if cross else {"self_prefix"})


@pytest.mark.parametrize(
    ("model_type", "leave_out", "names"),
    [
        pytest.param("git", [], {"git_self_prefix", "git_vision_model_self_prefix"}, id="two towers"),
        pytest.param("git", [0, 1], {"git_self_prefix"}, id="one of them is left out"),
        pytest.param("bart", [], {"encoder_prefix", "self_prefix", "cross_prefix"}, id="halves of one model type"),
        pytest.param("clip_text_model", [], {"self_prefix"}, id="a tower alone"),
    ],
)
def test_the_prefixes_of_a_tower_bear_its_type(model_type: str, leave_out: list[int], names: set[str]) -> None:
    model = AutoAdapterModel.from_config(tiny_config(model_type), attn_implementation="eager")
    model.add_adapter("a", PrefixTuningConfig(prefix_length=3, flat=True, leave_out=leave_out))
    assert set(model.base_model.prefix_tuning.prefix_tunings["a"]) == names


def test_half_of_an_encoder_decoder_is_not_taken_for_its_encoder() -> None:
    """Its config says that it is the whole, and upstream that it is its own encoder."""
    decoder = BartModel(tiny_config("bart")).decoder
    init(decoder)
    decoder.add_adapter("a", "prefix_tuning_flat[encoder_prefix=False]")
    assert set(decoder.prefix_tuning.prefix_tunings["a"]) == {"self_prefix", "cross_prefix"}


def test_dropout_changes_the_prefix_in_training_alone(inputs: Inputs) -> None:
    model = adapted("llama")
    model.add_adapter("a", "prefix_tuning_flat[prefix_length=3,dropout=0.5]")
    randomise(model, "a")
    runs = [states_under(model, "a", inputs) for _ in range(2)]
    assert torch.equal(*runs)
    model.train()
    runs = [states_under(model, "a", inputs) for _ in range(2)]
    assert not torch.allclose(*runs, atol=1e-3)


@pytest.mark.parametrize(
    "setup", [BatchSplit("p", "q", batch_sizes=[1, 1]), Stack("p", "q"), Parallel("p", "q")], ids=repr
)
def test_checkpointing_gives_the_same_gradients_in_blocks(setup: Any, inputs: Inputs) -> None:
    for reentrant, kind in itertools.product((True, False), ("llama",)):
        gradients = []
        for checkpointing in (False, True):
            model = prefixed(kind)
            model.train_adapter(setup)
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
                model.enable_input_require_grads()
            model(**inputs, use_cache=False)[0].square().sum().backward()
            gradients.append(
                [parameter.grad for name in ("p", "q") for _, parameter in model.adapter_parameters(name)]
            )
        assert_close(*gradients)


@pytest.mark.parametrize(("keys", "width"), [(4, 4), (1, 1), (4, 1)])
def test_a_bias_grows_unless_it_is_one_for_many_keys(keys: int, width: int) -> None:
    bias = torch.randn(2, 3, 1, width)
    grown = grow_bias(bias, length=5, keys=keys)
    assert torch.equal(grown[..., -width:], bias)
    if keys == width:  # also in the first step of a decoder, which has one key
        assert grown.shape == (2, 3, 1, 5 + keys) and not grown[..., :5].any()
    else:
        assert grown is bias
