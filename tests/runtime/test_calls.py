"""Calls of models: what they take and hand back beside upstream's arguments, per thread, and what is left behind: nothing."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest
import torch
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from adapter_runtime import AdapterSetup, BatchSplit, Fuse, MultiTask, Parallel, Stack, init
from adapter_runtime.call.context import thread
from adapter_runtime.errors import InvalidCompositionError, UnknownAdapterError, UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.api import PromptGenerationMixin
from adapter_runtime.model.head_model import GenerationAdaptersMixin
from adapter_runtime.model.heads.generation import HeadsGenerationMixin
from runtime_models import LLAMA, adapted, randomise, upstream

TOKENS = torch.randint(3, 99, (2, 6), generator=torch.Generator().manual_seed(3))


def with_adapters(kind: str = "llama_lm", **configs: str) -> PreTrainedModel:
    model = adapted(kind)
    for seed, (name, config) in enumerate(configs.items()):
        model.add_adapter(name, config)
        randomise(model, name, seed + 1)
    return model


def logits(model: PreTrainedModel, setup: Any = None, **inputs: Any) -> torch.Tensor:
    if setup is not None:
        model.set_active_adapters(setup)
    with torch.no_grad():
        return model(TOKENS, **inputs).logits


# Setups of a context


def test_threads_run_their_own_setups_at_the_same_time() -> None:
    model = with_adapters(a="seq_bn", b="lora|prefix_tuning_flat", c="loreft")
    setups: list[Any] = ["a", "b", "c", Stack("a", "b"), Parallel("a", "b"), None]
    expected = []
    for setup in setups:
        with AdapterSetup(setup):
            expected.append(logits(model))
    found: dict[int, list[torch.Tensor]] = {}
    barrier = threading.Barrier(len(setups))

    def work(index: int) -> None:
        barrier.wait()
        with AdapterSetup(setups[index]):
            found[index] = [logits(model) for _ in range(5)]

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(setups))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, wanted in enumerate(expected):
        for given in found[index]:
            torch.testing.assert_close(given, wanted)


def test_a_setup_of_a_context_may_name_known_adapters_only() -> None:
    model = with_adapters(alpha="seq_bn")
    with AdapterSetup("alpah"), pytest.raises(UnknownAdapterError, match="alpha"):
        logits(model)
    assert thread.context is None and thread.setup is None


def test_a_setup_of_a_context_keeps_to_skipped_layers() -> None:
    model = with_adapters(a="seq_bn", b="lora")
    bare = logits(model)
    model.set_active_adapters("a", skip_layers=[0, 1, 2])
    with AdapterSetup("b"):
        assert torch.equal(logits(model), bare)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    "config", ["seq_bn", "lora", "loreft[dropout=0.0]", "prefix_tuning_flat", "prefix_tuning_flat[leave_out=[0]]"]
)
def test_a_checkpointed_layer_is_trained_where_its_inputs_need_no_gradients(config: str, reentrant: bool) -> None:
    """Upstream lets the inputs of models of text need them, and not those of models of images."""
    gradients = []
    for is_checkpointed in (False, True):
        model = with_adapters(a=config)
        model.train_adapter("a")
        if is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.disable_input_require_grads()
        model(TOKENS, use_cache=False).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, msg=name)


@pytest.mark.parametrize("config", ["seq_bn", "lora", "prefix_tuning_flat", "noreft"])
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_the_beams_of_a_row_have_its_adapter(config: str, options: dict[str, Any]) -> None:
    model = with_adapters(a=config, b=config)

    def decoded(setup: Any) -> torch.Tensor:
        model.set_active_adapters(setup)
        mask = torch.ones_like(TOKENS)
        return model.generate(TOKENS, attention_mask=mask, max_new_tokens=5, eos_token_id=None, **options)

    a, b, both = (decoded(setup) for setup in ("a", "b", BatchSplit("a", "b", batch_sizes=[1, 1])))
    each = len(both) // 2
    assert torch.equal(both, torch.cat([a[:each], b[each:]]))
    assert not torch.equal(a, b)
    with pytest.raises(InvalidCompositionError, match="rows"):  # as many as one of them would have with beams
        logits(model, BatchSplit("a", "b", batch_sizes=[1, 3]))


@pytest.mark.parametrize("mixin", [GenerationAdaptersMixin, PromptGenerationMixin, HeadsGenerationMixin])
def test_what_takes_the_place_of_a_method_of_upstream_has_its_name(mixin: type) -> None:
    """Upstream renames its own methods; what overrides one under an old name is never called."""
    own = [name for name, value in vars(mixin).items() if inspect.isfunction(value)]
    overriding = [name for name in own if f"super().{name}(" in inspect.getsource(getattr(mixin, name))]
    assert overriding
    assert [
        name for name in overriding if not hasattr(PreTrainedModel, name) and not hasattr(GenerationMixin, name)
    ] == []


class GoesPastTheBase(LlamaForCausalLM):
    """As OPT's head does, which calls the decoder inside of its base model."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any) -> Any:
        inner = LlamaModel.forward(self.model, input_ids, attention_mask, use_cache=False)
        return CausalLMOutputWithPast(logits=self.lm_head(inner.last_hidden_state))


def test_a_head_that_goes_past_its_base_model() -> None:
    usual, model = with_adapters(a="loreft", b="seq_bn_inv"), GoesPastTheBase(LlamaConfig(**LLAMA)).eval()
    model.load_state_dict(upstream("llama_lm").state_dict())
    init(model)
    for seed, name in enumerate("ab"):
        model.add_adapter(name, usual.adapters_config.get(name))
        randomise(model, name, seed + 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    found = [logits(one, "a", attention_mask=mask)[mask.bool()] for one in (usual, model)]
    torch.testing.assert_close(found[1], found[0])
    with pytest.raises(UnsupportedMethodError, match="goes past the forward of its base model"):
        logits(model, "b")
    assert thread.context is None


def test_a_setup_follows_changes_of_the_model() -> None:
    model = with_adapters(a="seq_bn")
    setup = AdapterSetup("a")
    with setup:
        before = logits(model)
    model.delete_adapter("a")
    with setup, pytest.raises(UnknownAdapterError):
        logits(model)
    model.add_adapter("a", "seq_bn")
    randomise(model, "a", 9)
    with setup:
        assert not torch.allclose(logits(model), before)


def test_an_error_in_a_layer_leaves_no_context() -> None:
    model = with_adapters(a="prefix_tuning_flat")
    model.set_active_adapters("a")

    def fail(*_: Any) -> None:
        raise RuntimeError("planted")

    handle = model.model.layers[1].register_forward_hook(fail)
    with AdapterSetup("a"), pytest.raises(RuntimeError, match="planted"):
        logits(model)
    handle.remove()
    assert thread.context is None and thread.setup is None
    logits(model)


# Parallel


@pytest.mark.parametrize(
    "config", ["seq_bn", "par_bn", "lora", "ia3", "prefix_tuning", "loreft", "prompt_tuning", "unipelt"]
)
def test_parallel_adapters_are_those_run_one_after_the_other(config: str) -> None:
    model = with_adapters(a=config, b=config)
    both = logits(model, Parallel("a", "b"))
    torch.testing.assert_close(both, torch.cat([logits(model, "a"), logits(model, "b")]), rtol=1e-4, atol=1e-4)


def test_the_loss_of_a_static_head_is_the_mean_over_parallel_adapters() -> None:
    model = with_adapters(a="seq_bn", b="lora")
    labels = TOKENS.clone()
    losses = []
    for setup in ("a", "b", Parallel("a", "b")):
        model.set_active_adapters(setup)
        losses.append(model(TOKENS, labels=labels).loss)
    torch.testing.assert_close(losses[2], (losses[0] + losses[1]) / 2)


def test_an_input_that_the_caller_repeated_is_not_repeated_again() -> None:
    model = with_adapters(a="seq_bn", b="lora")
    model.set_active_adapters(Parallel("a", "b"))
    with torch.no_grad():
        given = model(torch.cat([TOKENS, TOKENS]), adapter_input_parallelized=True).logits
    torch.testing.assert_close(given, logits(model))


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"use_cache": False}], ids=str)
def test_parallel_adapters_generate_what_each_generates(settings: dict[str, Any]) -> None:
    model = with_adapters(a="seq_bn", b="prefix_tuning_flat", c="loreft")
    mask = torch.ones_like(TOKENS)
    mask[0, :2] = 0

    def generated(setup: Any) -> torch.Tensor:
        model.set_active_adapters(setup)
        return model.generate(
            TOKENS,
            attention_mask=mask,
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **settings,
        )

    together = generated(Parallel("a", "b", "c"))
    assert torch.equal(together, torch.cat([generated(name) for name in "abc"]))


# Tasks


def test_rows_go_to_their_tasks() -> None:
    model = with_adapters(a="seq_bn", b="lora")
    a, b = logits(model, "a"), logits(model, "b")
    for task_ids in ([1, 0], torch.tensor([1, 0]), ["b", "a"]):
        given = logits(model, MultiTask("a", "b"), task_ids=task_ids)
        torch.testing.assert_close(given, torch.cat([b[:1], a[1:]]))


def test_tasks_without_task_ids_are_an_error_that_says_so() -> None:
    model = with_adapters(a="seq_bn", b="seq_bn")
    with pytest.raises(InvalidCompositionError, match="task_ids="):
        logits(model, MultiTask("a", "b"))


def test_generation_keeps_to_the_tasks() -> None:
    model = with_adapters(a="seq_bn", b="lora")

    def generated(setup: Any, **kwargs: Any) -> torch.Tensor:
        model.set_active_adapters(setup)
        settings = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(TOKENS, attention_mask=torch.ones_like(TOKENS), **settings, **kwargs)

    given = generated(MultiTask("a", "b"), task_ids=torch.tensor([1, 0]))
    assert torch.equal(given, torch.cat([generated("b")[:1], generated("a")[1:]]))


# Gates and attentions as outputs


def test_gates_are_handed_back_by_adapter_layer_and_place() -> None:
    model = with_adapters(a="unipelt", b="seq_bn[use_gating=True]")
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    with torch.no_grad():
        outputs = model(TOKENS, output_adapter_gating_scores=True)
    scores = outputs["adapter_gating_scores"]
    assert set(scores) == {"a", "b"} and set(scores["a"]) == set(scores["b"]) == {0, 1, 2}
    assert set(scores["a"][0]) == {"output_adapter", "selfattn_lora", "self_prefix"}
    assert scores["a"][0]["selfattn_lora"].shape == (1, 2)  # queries and values
    assert scores["b"][1]["output_adapter"].shape == (1,)
    assert ((scores["b"][1]["output_adapter"] > 0) & (scores["b"][1]["output_adapter"] < 1)).all()


def test_gates_are_recorded_once_where_layers_are_computed_twice() -> None:
    model = with_adapters(a="unipelt")
    model.train_adapter("a")
    model.gradient_checkpointing_enable()
    outputs = model(TOKENS, output_adapter_gating_scores=True, use_cache=False)
    outputs.logits.sum().backward()
    assert outputs["adapter_gating_scores"]["a"][0]["selfattn_lora"].shape == (2, 2)


def test_attentions_of_a_fusion_are_handed_back() -> None:
    model = with_adapters(a="seq_bn", b="seq_bn")
    model.add_adapter_fusion(Fuse("a", "b"))
    model.set_active_adapters(Fuse("a", "b"))
    with torch.no_grad():
        outputs = model(TOKENS, output_adapter_fusion_attentions=True)
    attention = outputs["adapter_fusion_attentions"]["a,b"][2]["output_adapter"]
    assert attention.shape == (2, 6, 2)
    torch.testing.assert_close(torch.from_numpy(attention).sum(-1), torch.ones(2, 6))


def test_asking_with_nothing_active_gives_nothing() -> None:
    model = with_adapters(a="unipelt")
    outputs = model(TOKENS, output_adapter_gating_scores=True)
    assert outputs["adapter_gating_scores"] == {}
    pair = model(TOKENS, output_adapter_gating_scores=True, return_dict=False)
    assert pair[-1] == {}
    assert "adapter_gating_scores" not in model(TOKENS, output_adapter_gating_scores=False)
