"""Invertible adapters: after the embeddings, and backwards before the vocabulary."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from adapter_models import AutoAdapterModel
from adapter_runtime import (
    AdapterSetup,
    Average,
    BatchSplit,
    MultiTask,
    Parallel,
    SeqBnConfig,
    SeqBnInvConfig,
    Split,
    Stack,
    init,
)
from adapter_runtime.call.context import ForwardContext, thread
from adapter_runtime.errors import InvalidConfigError, UnknownAdapterError, UnsupportedMethodError
from adapter_runtime.methods.invertible.api import undo_before_projection
from adapter_runtime.methods.invertible.module import GLOW, NICE, make_invertible
from runtime_models import BERT, LLAMA, adapted, randomise, upstream

KINDS = ["nice", "glow"]
LM_CLASSES = {"bert": (BertForMaskedLM, BertConfig, BERT), "llama": (LlamaForCausalLM, LlamaConfig, LLAMA)}


def inv_config(kind: str, **options: Any) -> SeqBnInvConfig:
    return SeqBnInvConfig(inv_adapter=kind, **options)


def with_adapters(kind: str, inv: str, names: str = "a") -> PreTrainedModel:
    model = adapted(kind)
    for name in names:
        model.add_adapter(name, inv_config(inv))
        randomise(model, name, seed=ord(name))
    model.set_active_adapters(names[0])
    return model


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, 99, (3, 6), generator=torch.Generator().manual_seed(3))


# The modules


@pytest.mark.parametrize("width", [8, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_defect_21_backwards_undoes_forwards(kind: str, width: int) -> None:
    coupling = make_invertible(inv_config(kind), width).double()
    for parameter in coupling.parameters():
        nn.init.normal_(parameter)
    states = torch.randn(2, 5, width, dtype=torch.float64)
    for first, second in ((False, True), (True, False)):
        there = coupling(states, first)
        assert (there - states).abs().max() > 0.1
        assert_close(coupling(there, second), states, rtol=1e-9, atol=1e-9)


def test_nice_by_its_formula() -> None:
    coupling = make_invertible(inv_config("nice"), 8)
    assert isinstance(coupling, NICE)
    states = torch.randn(2, 3, 8)
    one, two = states[..., :4], states[..., 4:]
    one = one + coupling.F(two)
    assert_close(coupling(states), torch.cat([one, two + coupling.G(one)], dim=-1))


def test_glow_by_its_formula() -> None:
    coupling = make_invertible(inv_config("glow"), 8)
    assert isinstance(coupling, GLOW)
    for parameter in coupling.parameters():
        nn.init.normal_(parameter)
    states = torch.randn(2, 3, 8)
    one, two = states[..., :4], states[..., 4:]

    def scale(raw: torch.Tensor) -> torch.Tensor:
        return torch.exp(5.0 * 0.636 * torch.atan(raw / 5.0))

    given = coupling.s2(two)
    one = scale(given[..., :4]) * one + given[..., 4:]
    given = coupling.s1(one)
    two = scale(given[..., :4]) * two + given[..., 4:]
    assert_close(coupling(states), torch.cat([one, two], dim=-1))


@pytest.mark.parametrize(("kind", "networks"), [("nice", "FG"), ("glow", ["s1", "s2"])])
def test_the_exact_names_and_shapes_of_the_tensors(kind: str, networks: Any) -> None:
    for model_kind, prefix in (("bert_lm", "bert."), ("llama_lm", "model."), ("bert", "")):
        model = adapted(model_kind)
        known = set(model.state_dict())
        model.add_adapter("a", inv_config(kind))
        new = {
            key: list(value.shape) for key, value in model.state_dict().items() if ".invertible_adapters." in f".{key}"
        }
        outputs = 16 if kind == "nice" else 32
        assert new == {
            f"{prefix}invertible_adapters.a.{network}.{layer}.{leaf}": shape
            for network in networks
            for layer, leaf, shape in (
                (0, "weight", [8, 16]),
                (0, "bias", [8]),
                (2, "weight", [outputs, 8]),
                (2, "bias", [outputs]),
            )
        }
        assert not known & set(new)


# Forwards


@pytest.mark.parametrize("inv", KINDS)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_embeddings_are_changed_before_the_first_layer(kind: str, inv: str, ids: torch.Tensor) -> None:
    model = with_adapters(kind, inv)
    plain, bottlenecks = upstream(kind), adapted(kind)
    bottlenecks.add_adapter("a", SeqBnConfig(), set_active=True)
    own = bottlenecks.state_dict()
    bottlenecks.load_state_dict({key: value for key, value in model.state_dict().items() if key in own})
    coupling = copy.deepcopy(model.get_invertible_adapter())
    bottlenecks.get_submodule(model.embedding_output).register_forward_hook(lambda m, a, out: coupling(out))
    with torch.no_grad():
        given = model(ids, output_hidden_states=True)
        assert_close(given[0], bottlenecks(ids)[0])
        entering = plain(ids, output_hidden_states=True).hidden_states[0]
        assert_close(given.hidden_states[0], coupling(entering))


@pytest.mark.parametrize("kind", ["bert", "llama", "llama_lm", "bert_lm"])
def test_embeddings_that_the_caller_gives_are_changed_once(kind: str, ids: torch.Tensor) -> None:
    model = with_adapters(kind, "nice")
    expected = model(ids)[0]
    looked_up = model.get_input_embeddings()(ids)
    assert torch.equal(looked_up, upstream(kind).get_input_embeddings()(ids))
    assert_close(model(inputs_embeds=looked_up)[0], expected)


def test_a_new_token_table_is_followed_too(ids: torch.Tensor) -> None:
    model = with_adapters("llama", "nice")
    expected = model(ids)[0]
    table = nn.Embedding(99, 32)
    table.weight = model.embed_tokens.weight
    model.set_input_embeddings(table)
    assert_close(model(ids)[0], expected)


def test_a_prompt_is_not_changed(ids: torch.Tensor) -> None:
    for kind in ("llama", "bert"):
        model = with_adapters(kind, "nice")
        model.add_adapter("p", "prompt_tuning[prompt_length=2]")
        randomise(model, "p")
        states = []
        for setup in ("p", Stack("p", "a")):
            model.set_active_adapters(setup)
            states.append(model(ids, output_hidden_states=True).hidden_states[0])
        coupling = model.get_invertible_adapter()
        assert coupling is not None
        assert_close(states[1][:, :2], states[0][:, :2])
        assert_close(states[1][:, 2:], coupling(states[0][:, 2:]))


def test_generation_from_given_embeddings(ids: torch.Tensor) -> None:
    model = with_adapters("llama_lm", "nice")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    tokens = model.generate(ids, **options)[:, ids.shape[1] :]
    embeddings = model.get_input_embeddings()(ids)
    assert torch.equal(model.generate(inputs_embeds=embeddings, **options), tokens)
    assert torch.equal(model.generate(ids, use_cache=False, **options)[:, ids.shape[1] :], tokens)


# Backwards


def tied(kind: str, is_tied: bool = True) -> PreTrainedModel:
    cls, config_cls, options = LM_CLASSES[kind]
    torch.manual_seed(0)
    model = cls(config_cls(**options, tie_word_embeddings=is_tied)).eval()
    init(model)
    model.add_adapter("a", inv_config("nice"), set_active=True)
    randomise(model, "a")
    return model


def seen_by_projection(model: PreTrainedModel, run: Any) -> torch.Tensor:
    """What the projection to the vocabulary is given in `run`."""
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        run()
    handle.remove()
    return seen[-1]


def into_projection(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the projection of a static head is given with the invertible adapter undone, and without."""
    projection = model.get_output_embeddings()
    given = seen_by_projection(model, lambda: model(ids))
    hooks = projection._forward_pre_hooks.copy()
    projection._forward_pre_hooks.clear()
    without = seen_by_projection(model, lambda: model(ids))
    projection._forward_pre_hooks.update(hooks)
    return given, without


@pytest.mark.parametrize("kind", LM_CLASSES)
def test_a_tied_static_head_undoes(kind: str, ids: torch.Tensor) -> None:
    model = tied(kind)
    given, without = into_projection(model, ids)
    coupling = model.get_invertible_adapter()
    assert coupling is not None
    assert_close(given, coupling(without, rev=True))
    assert not torch.allclose(given, without)


@pytest.mark.parametrize("kind", LM_CLASSES)
def test_an_untied_static_head_does_not(kind: str, ids: torch.Tensor) -> None:
    given, without = into_projection(tied(kind, is_tied=False), ids)
    assert torch.equal(given, without)


def test_defect_15_a_static_head_undoes_what_a_setup_of_the_thread_runs(ids: torch.Tensor) -> None:
    model = tied("bert")
    expected = model(ids).logits
    model.set_active_adapters(None)
    with AdapterSetup("a"):
        assert_close(model(ids).logits, expected)
    model.set_active_adapters("a")
    with AdapterSetup(None):
        assert_close(model(ids).logits, tied_without_adapter(ids))


def tied_without_adapter(ids: torch.Tensor) -> torch.Tensor:
    return upstream("bert_lm")(ids).logits


def test_adapters_of_the_base_model_are_undone_in_the_head(ids: torch.Tensor) -> None:
    model = upstream("bert_lm")
    init(model)
    model.bert.add_adapter("a", inv_config("nice"), set_active=True)
    randomise(model, "a")
    assert_close(model(ids).logits, tied("bert")(ids).logits)


def test_a_head_undoes_after_its_vocabulary_was_resized(ids: torch.Tensor) -> None:
    model = tied("bert")
    expected = model(ids).logits
    model.resize_token_embeddings(120)
    assert_close(model(ids).logits[..., :99], expected)
    model.set_output_embeddings(nn.Linear(32, 120))
    assert undo_before_projection in model.get_output_embeddings()._forward_pre_hooks.values()


@pytest.mark.parametrize("kind", LM_CLASSES)
def test_defect_15_a_flexible_head_undoes_like_a_static_one(kind: str, ids: torch.Tensor) -> None:
    static = tied(kind)
    config = copy.deepcopy(static.config)
    flexible = AutoAdapterModel.from_config(config).eval()
    add = flexible.add_masked_lm_head if kind == "bert" else flexible.add_causal_lm_head
    options = {} if kind == "bert" else {"layers": 1, "activation_function": None, "layer_norm": False, "bias": False}
    add("a", **options)
    flexible.add_adapter("a", inv_config("nice"), set_active=True)
    base = flexible.adapters_base
    base.load_state_dict({**base.state_dict(), **static.adapters_base.state_dict()})
    if kind == "bert":
        transform = static.cls.predictions.transform
        flexible.heads["a"][0].load_state_dict(transform.dense.state_dict())
        flexible.heads["a"][2].load_state_dict(transform.LayerNorm.state_dict())
    expected = static(ids).logits
    assert_close(flexible(ids).logits, expected)
    flexible.set_active_adapters(None)
    with AdapterSetup("a"):
        assert_close(flexible(ids).logits, expected)


def test_a_head_costs_nothing_while_nothing_runs(ids: torch.Tensor) -> None:
    model = adapted("bert_lm")
    projection = model.get_output_embeddings()
    assert undo_before_projection(projection, (torch.zeros(1),)) is None
    assert thread.context is None
    assert torch.equal(model(ids).logits, upstream("bert_lm")(ids).logits)


# Composition


@pytest.mark.parametrize("kind", ["bert_lm", "llama_lm"])
@pytest.mark.parametrize("inv", KINDS)
def test_rows_get_their_own_adapter(kind: str, inv: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    if kind == "llama_lm":
        model.lm_head.weight = model.model.embed_tokens.weight
    for name in "ab":
        model.add_adapter(name, inv_config(inv))
        randomise(model, name, seed=ord(name))
    model.add_adapter("n", SeqBnConfig())
    randomise(model, "n")

    def run(setup: Any, **options: Any) -> torch.Tensor:
        model.set_active_adapters(setup)
        with torch.no_grad():
            return model(ids, **options).logits

    a, b, n = (run(name) for name in "abn")
    assert not torch.allclose(a, b)
    assert_close(run(BatchSplit("a", "n", batch_sizes=[1, 2])), torch.cat([a[:1], n[1:]]))
    assert_close(run(Parallel("a", "b")), torch.cat([a, b]))
    tasks = torch.tensor([1, 0, 1])
    assert_close(run(MultiTask("a", "b"), task_ids=tasks), torch.stack([b[0], a[1], b[2]]))


def test_a_stack_is_undone_from_its_end() -> None:
    model = with_adapters("bert", "glow", names="ab").double()
    model.set_active_adapters(Stack("a", "b"))
    a, b = model.invertible_adapters["a"], model.invertible_adapters["b"]
    states = torch.randn(2, 3, 32, dtype=torch.float64)
    there = model.invertible_adapters_forward(states)
    assert_close(there, b(a(states)))
    assert_close(model.invertible_adapters_forward(there, rev=True), states, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("block", [Average("a", "b"), Split("a", "b", splits=3)])
def test_what_cannot_be_undone_is_refused_where_an_adapter_has_such_a_part(block: Any, ids: torch.Tensor) -> None:
    model = with_adapters("bert", "nice", names="ab")
    with pytest.raises(UnsupportedMethodError, match="invertible"):
        model.set_active_adapters(block)
    assert model.active_adapters == Stack("a")
    for name in "ab":
        model.delete_invertible_adapter(name)
    model.set_active_adapters(block)
    model(ids)


# Handling


@pytest.mark.parametrize("kind", ["bert", "llama", "bert_lm"])
def test_nothing_is_left_after_the_last_adapter(kind: str, ids: torch.Tensor) -> None:
    model = adapted(kind)
    before = [*model.state_dict(), *(name for name, _ in model.named_modules())]
    hooks = [list(module._forward_hooks.values()) for module in model.modules()]  # those of `init`
    for name in "ab":
        model.add_adapter(name, inv_config("nice"), set_active=True)
    model.delete_adapter("a")
    assert model.get_invertible_adapter() is not None
    model.delete_adapter("b")
    assert [*model.state_dict(), *(name for name, _ in model.named_modules())] == before
    assert [list(module._forward_hooks.values()) for module in model.modules()] == hooks
    assert torch.equal(model(ids)[0], upstream(kind)(ids)[0])


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_the_part_by_itself(is_wrapped: bool, ids: torch.Tensor) -> None:
    model = with_adapters("bert_lm" if is_wrapped else "bert", "nice")
    model.add_adapter("n", SeqBnConfig())
    with_part = model(ids)[0]
    with pytest.raises(ValueError, match="already"):
        model.add_invertible_adapter("a")
    assert model.add_invertible_adapter("n") is False
    with pytest.raises(UnknownAdapterError):
        model.add_invertible_adapter("x")
    model.delete_invertible_adapter("a")
    assert model.get_invertible_adapter() is None
    assert not torch.allclose(model(ids)[0], with_part)
    assert model.add_invertible_adapter("a") is True
    model.freeze_model()
    model.enable_invertible_adapters(["a", "n"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "invertible" in name} == {
        name for name, _ in model.named_parameters() if ".invertible_adapters.a." in f".{name}"
    }
    states = torch.randn(1, 2, 32)
    assert_close(model.invertible_adapters_forward(model.invertible_adapters_forward(states), rev=True), states)


def test_training_reaches_the_part(ids: torch.Tensor) -> None:
    for kind in LM_CLASSES:
        model = tied(kind)
        model.train_adapter("a")
        model(ids, labels=ids).loss.backward()
        for name, parameter in model.adapter_parameters("a"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_copies_and_pickles_have_their_own(ids: torch.Tensor) -> None:
    for kind in LM_CLASSES:
        model = tied(kind)
        expected = model(ids).logits
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_close(copied(ids).logits, expected)
            with torch.no_grad():
                for _, parameter in copied.adapter_parameters("a"):
                    parameter.mul_(2)
            assert not torch.allclose(copied(ids).logits, expected)
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("options", [{"inv_adapter_reduction_factor": None}, {"non_linearity": "rely"}])
def test_a_refused_adapter_leaves_the_model_as_it_was(options: dict[str, Any], ids: torch.Tensor) -> None:
    model = adapted("bert")
    before = list(model.state_dict())
    with pytest.raises(InvalidConfigError):
        model.add_adapter("a", inv_config("nice", **options))
    with pytest.raises(InvalidConfigError, match="cannot be called"):
        model.add_adapter("couple", inv_config("nice"))
    assert list(model.state_dict()) == before
    assert not any(module._forward_hooks for module in model.modules())
    model.add_adapter("couple", SeqBnConfig())


def test_defect_27_the_seed_of_the_config_counts() -> None:
    first, second = (make_invertible(inv_config("nice", init_weights_seed=0), 8) for _ in range(2))
    for own, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("inv", KINDS)
@pytest.mark.parametrize("kind", LM_CLASSES)
def test_one_graph(kind: str, inv: str, ids: torch.Tensor, fresh_compiler: None) -> None:
    model = tied(kind)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    options = {"use_cache": False} if kind == "llama" else {}
    assert_close(compiled(ids, **options).logits, model(ids, **options).logits)
    embeddings = model.get_input_embeddings()(ids).detach()
    given = compiled(inputs_embeds=embeddings, **options).logits
    assert_close(given, model(ids, **options).logits)


def test_a_call_that_goes_past_the_place_of_an_invertible_adapter_is_an_error() -> None:
    model = with_adapters("bert", "nice")
    held = model.invertible_adapters
    thread.context = ForwardContext(model)
    try:
        with pytest.raises(UnsupportedMethodError, match="did not run in this call"):
            held.at_exit(())
        held.couple(torch.zeros(1, 2, 32))
        assert held.at_exit(()) == ()
    finally:
        thread.context = None
