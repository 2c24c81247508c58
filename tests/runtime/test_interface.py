"""Adapters in models nobody generated: where they act, and that all methods run by hooks."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2Model,
    ViTConfig,
    ViTForImageClassification,
)

from adapter_runtime import init
from adapter_runtime.composition import Average, BatchSplit, Fuse, Parallel, Stack
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.model.interface.declaration import AdapterModelInterface
from interface_models import BART_PARTS, BERT, GEMMA2, QWEN2, TINY, TOKENS, add, bart, gemma2, logits, qwen2
from runtime_models import adapted, randomise

# Nothing active


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_an_interface_alone_changes_nothing(attention: str) -> None:
    plain = qwen2(None, attn_implementation=attention)
    before = plain(TOKENS, labels=TOKENS, output_hidden_states=True)
    described = qwen2(attn_implementation=attention)
    described.add_adapter("a", "double_seq_bn")
    after = described(TOKENS, labels=TOKENS, output_hidden_states=True)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.loss, after.loss)
    assert len(before.hidden_states) == len(after.hidden_states)
    assert all(map(torch.equal, before.hidden_states, after.hidden_states))


class _Count(TorchDispatchMode):
    """How many aten operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        return func(*args, **(kwargs or {}))


def test_hooks_without_active_adapters_run_no_operation() -> None:
    totals = []
    for model in (qwen2(None), qwen2()):
        if hasattr(model, "add_adapter_fusion"):
            model.add_adapter("a", "double_seq_bn")
        with _Count() as count:
            logits(model)
        totals.append(count.total)
    assert totals[0] == totals[1]


def test_a_layer_that_stands_twice_in_the_list_is_one_layer() -> None:
    model = qwen2(None)
    model.model.layers[2] = model.model.layers[0]
    init(model, interface=QWEN2)
    add(model, "a", "seq_bn")
    assert sorted(model.get_adapter("a")) == [0, 1]
    assert len(model.model.layers[0].mlp.down_proj._forward_hooks) == 1
    model.set_active_adapters("a")
    logits(model)


# Where bottlenecks act


def by_hand(model: PreTrainedModel, adapter: Callable[[int, str], Callable[..., torch.Tensor]]) -> list[Any]:
    """Hooks, written out for Gemma 2, that run `adapter(layer, place)(x, residual, norm)`."""
    handles = []
    for index, layer in enumerate(model.model.layers):
        residuals: dict[str, torch.Tensor] = {}
        for place, before, projection, norm in (
            ("attention", layer.input_layernorm, layer.self_attn.o_proj, layer.post_attention_layernorm),
            ("output", layer.pre_feedforward_layernorm, layer.mlp.down_proj, layer.post_feedforward_layernorm),
        ):

            def remember(_: Any, args: Any, held: Any = residuals, place: str = place) -> None:
                held[place] = args[0]

            def change(
                _m: Any,
                _a: Any,
                x: Any,
                held: Any = residuals,
                place: str = place,
                norm: Any = norm,
                index: int = index,
            ) -> torch.Tensor:
                return adapter(index, place)(x, held[place], norm)

            handles += [before.register_forward_pre_hook(remember), projection.register_forward_hook(change)]
    return handles


def test_defect_12_each_layer_applies_its_own_norm() -> None:
    plain, model = gemma2(), gemma2()
    init(model, interface=GEMMA2)
    add(model, "a", "double_seq_bn[reduction_factor=4,original_ln_before=True]")
    model.set_active_adapters("a")
    weights = {key.removeprefix("model.layers."): value for key, value in model.state_dict().items() if ".a." in key}

    def adapter(layer: int, place: str) -> Callable[..., torch.Tensor]:
        def run(x: torch.Tensor, residual: torch.Tensor, norm: nn.Module) -> torch.Tensor:
            key = f"{layer}.{place}_adapters.adapters.a"
            down, up = f"{key}.adapter_down.0", f"{key}.adapter_up"
            hidden = norm(x + residual) @ weights[f"{down}.weight"].T + weights[f"{down}.bias"]
            return nn.functional.silu(hidden) @ weights[f"{up}.weight"].T + weights[f"{up}.bias"] + x

        return run

    by_hand(plain, adapter)
    assert_close(logits(model), logits(plain))


def test_defect_12_cross_attention_has_a_host_of_its_own() -> None:
    model = bart()
    init(model, interface=BART_PARTS)
    config = BnConfig(
        mh_adapter=True, output_adapter=True, cross_adapter=True, reduction_factor=4, non_linearity="relu"
    )
    add(model, "a", config)
    places = {index: set(modules) for index, modules in model.get_adapter("a").items()}
    encoder, decoder = {"mh_adapter", "output_adapter"}, {"mh_adapter", "cross_adapter", "output_adapter"}
    assert places == {0: encoder, 1: encoder, 2: decoder, 3: decoder}
    model.set_active_adapters("a")
    model.train()
    model(TOKENS, labels=TOKENS).loss.backward()
    for name, parameter in model.adapter_parameters("a"):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_post_norm_layers_compute_what_generated_classes_do() -> None:
    """BERT by an interface, and BERT by its generated classes, with the same adapter."""
    generated, described = adapted("bert"), copy.deepcopy(upstream_bert())
    init(described, interface=BERT)
    for model in (generated, described):
        add(model, "a", BnConfig(mh_adapter=True, output_adapter=True, reduction_factor=4, non_linearity="relu",
                                 original_ln_before=True))  # fmt: skip
        model.set_active_adapters("a")
    renamed = {
        key.replace("attention_adapters.", "attention.output.").replace("output_adapters.", "output."): value
        for key, value in described.state_dict().items()
        if ".a." in key
    }
    assert renamed
    missing = generated.load_state_dict(renamed, strict=False)
    assert not missing.unexpected_keys
    with torch.no_grad():
        assert_close(described(TOKENS).last_hidden_state, generated(TOKENS).last_hidden_state)


def upstream_bert() -> BertModel:
    from runtime_models import upstream

    model = upstream("bert")
    assert isinstance(model, BertModel)
    return model


def test_pre_norm_layers_compute_what_generated_classes_do() -> None:
    torch.manual_seed(0)
    generated = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    described = copy.deepcopy(generated)
    init(generated)
    init(described, interface=QWEN2)
    for config in ("double_seq_bn[reduction_factor=4]", "par_bn[reduction_factor=4]",
                   LoRAConfig(r=2, attn_matrices=["q", "v"], intermediate_lora=True, output_lora=True),
                   "loreft[r=2]", "seq_bn_inv[reduction_factor=4]", "prompt_tuning[prompt_length=3]"):  # fmt: skip
        for model in (generated, described):
            add(model, "a", config)
            model.set_active_adapters("a")
        assert list(described.state_dict()) == list(generated.state_dict())
        described.load_state_dict(generated.state_dict())
        assert_close(logits(described), logits(generated))
        for model in (generated, described):
            model.delete_adapter("a")


def test_a_part_made_of_models_has_an_interface_for_each() -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    encoder, decoder = BertConfig(**sizes, num_hidden_layers=2), BertConfig(**sizes, num_hidden_layers=1)
    torch.manual_seed(0)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.pad_token_id = 0
    model = EncoderDecoderModel(config).eval()
    before = logits(model, decoder_input_ids=TOKENS)
    init(
        model,
        interface={
            "encoder": BERT,
            "decoder.bert": dataclasses.replace(
                BERT, layer_cross_attn="crossattention", layer_pre_cross_attn="crossattention.self"
            ),
        },
    )
    assert torch.equal(logits(model, decoder_input_ids=TOKENS), before)
    add(model, "a", BnConfig(mh_adapter=True, output_adapter=True, cross_adapter=True, reduction_factor=4,
                             non_linearity="relu", leave_out=[1]))  # fmt: skip
    assert sorted(model.get_adapter("a")) == [0, 2]
    keys = [key for key in model.state_dict() if ".a." in key]
    assert any(key.startswith("decoder.bert.encoder.layer.0.cross_attention_adapters.adapters.a.") for key in keys)
    model.set_active_adapters("a")
    assert not torch.allclose(logits(model, decoder_input_ids=TOKENS), before, atol=1e-3)


def test_a_layer_without_residual_hook_adapts_the_output_alone() -> None:
    interface = dataclasses.replace(QWEN2, layer_pre_ffn=None)
    model = qwen2(interface)
    add(model, "a", "seq_bn[reduction_factor=4]")
    model.set_active_adapters("a")
    seen: list[torch.Tensor] = []
    host = model.model.layers[0].output_adapters
    host.adapters["a"].register_forward_pre_hook(lambda _, args: seen.extend([args[0], args[1]]))
    host.adapters["a"].adapter_down.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits(model)
    x, residual, entry = seen
    assert residual is None
    assert torch.equal(entry, x)


# Methods and compositions


@pytest.mark.parametrize(
    "config",
    [
        "double_seq_bn",
        "par_bn",
        "lora",
        "ia3",
        "loreft",
        "seq_bn_inv",
        "prompt_tuning",
        "compacter[reduction_factor=2]",
    ],
)
def test_every_method_runs_trains_and_compiles(config: str) -> None:
    model = qwen2()
    before = logits(model)
    add(model, "a", config)
    model.train_adapter("a")
    parameters = [p for p in model.parameters() if p.requires_grad]
    model(TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None for p in parameters)
    model.eval()
    changed = logits(model)
    assert not torch.allclose(changed[:, -6:], before, atol=1e-4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_close(compiled(TOKENS).logits.detach(), changed)


def test_parallel_equals_its_children_run_one_by_one() -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn", seed=1)
    add(model, "b", "double_seq_bn", seed=2)
    alone = []
    for name in ("a", "b"):
        model.set_active_adapters(name)
        alone.append(logits(model))
    model.set_active_adapters(Parallel("a", "b"))
    assert_close(logits(model), torch.cat(alone))
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
    assert_close(logits(model), torch.stack([alone[0][0], alone[1][1]]))


def test_stack_and_average_run_in_hooks() -> None:
    model = qwen2()
    add(model, "a", "seq_bn", seed=1)
    add(model, "b", "seq_bn", seed=2)
    model.set_active_adapters("a")
    first = logits(model)
    model.set_active_adapters(Stack("a", "b"))
    assert not torch.allclose(logits(model), first, atol=1e-4)
    model.set_active_adapters(Average("a", "b", weights=[1.0, 0.0]))
    assert_close(logits(model), first)


def test_fusions_compute_what_generated_classes_do() -> None:
    torch.manual_seed(0)
    generated = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    described = copy.deepcopy(generated)
    init(generated)
    init(described, interface=QWEN2)
    for model in (generated, described):
        model.add_adapter("a", "double_seq_bn")
        model.add_adapter("b", "double_seq_bn")
        model.add_adapter_fusion(["a", "b"])
        for name, seed in (("a", 1), ("b", 2)):
            randomise(model, name, seed)
        model.set_active_adapters(Fuse("a", "b"))
    described.load_state_dict(generated.state_dict())
    assert_close(logits(described), logits(generated))


@torch.no_grad()
def test_models_of_images_can_be_described() -> None:
    interface = dataclasses.replace(
        QWEN2,
        model_embeddings="embeddings",
        layer_self_attn="attention",
        layer_intermediate_proj="mlp.fc1",
        layer_output_proj="mlp.fc2",
        layer_pre_self_attn="layernorm_before",
        layer_pre_ffn="layernorm_after",
    )
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
    pixels = torch.randn(2, 3, 16, 16)
    before = model(pixels).logits
    init(model, interface=interface)
    assert torch.equal(model(pixels).logits, before)
    for config in ("double_seq_bn", "lora", "loreft", "prompt_tuning[prompt_length=2]"):
        add(model, "a", config)
        model.set_active_adapters("a")
        assert not torch.allclose(model(pixels).logits, before, atol=1e-4)
        model.delete_adapter("a")
    with pytest.raises(UnsupportedMethodError, match="invertible"):
        model.add_adapter("a", "seq_bn_inv")


def test_generation_with_a_cache_equals_generation_without() -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(TOKENS, use_cache=True, **options)
    assert torch.equal(cached, model.generate(TOKENS, use_cache=False, **options))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = qwen2()
        add(model, "a", "double_seq_bn")
        model.train_adapter("a")
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(TOKENS, labels=TOKENS).loss.backward()
        gradients.append([parameter.grad for _, parameter in model.adapter_parameters("a")])
    for plain, again in zip(*gradients, strict=True):
        assert_close(plain, again)


def test_threads_do_not_see_each_others_residuals() -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    batches = [
        torch.randint(3, 40, (1, length), generator=torch.Generator().manual_seed(length)) for length in range(4, 12)
    ]
    expected = [logits(model, batch) for batch in batches]
    found: list[list[torch.Tensor]] = [[] for _ in batches]

    def work(index: int) -> None:
        for _ in range(5):
            found[index].append(logits(model, batches[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outputs, wanted in zip(found, expected, strict=True):
        assert len(outputs) == 5
        for output in outputs:
            assert_close(output, wanted)


def test_copies_and_pickles_run_by_themselves() -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    expected = logits(model)
    others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with torch.no_grad():
        for _, parameter in model.adapter_parameters("a"):
            parameter.zero_()
    for other in others:
        assert torch.equal(logits(other), expected)
    assert not torch.allclose(logits(model), expected, atol=1e-4)


def test_a_fused_projection_is_adapted_by_parts() -> None:
    """GPT-2 by an interface: LoRA of queries and values leaves keys alone."""
    interface = AdapterModelInterface(
        adapter_methods=["lora"],
        model_embeddings="drop",
        model_layers="h",
        layer_self_attn="attn",
        layer_cross_attn=None,
        attn_qkv_proj="c_attn",
        attn_o_proj="c_proj",
        layer_intermediate_proj="mlp.c_fc",
        layer_output_proj="mlp.c_proj",
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16)).eval()
    seen: list[torch.Tensor] = []
    model.transformer.h[0].attn.c_attn.register_forward_hook(lambda *args: seen.append(args[2]))
    logits(model)
    init(model, interface=interface)
    add(model, "a", LoRAConfig(r=2, attn_matrices=["q", "v"]))
    model.set_active_adapters("a")
    logits(model)
    before, after = (output.split(16, dim=-1) for output in seen)
    assert [not torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [True, False, True]


def test_methods_that_are_not_offered_are_refused() -> None:
    model = qwen2(dataclasses.replace(QWEN2, adapter_methods=["lora"]))
    with pytest.raises(UnsupportedMethodError, match="bottleneck: its interface does not list it"):
        model.add_adapter("a", "seq_bn")
    assert not model.supports_adapter("seq_bn_inv")
    assert model.supports_adapter("lora")
    assert not model.has_adapters()


@pytest.mark.parametrize("config", ["prefix_tuning", "mam"])
def test_prefix_tuning_is_refused_with_a_way_out(config: str) -> None:
    model = qwen2()
    with pytest.raises(UnsupportedMethodError, match="adapter-codegen add-model"):
        model.add_adapter("a", config)
    with pytest.raises(InvalidConfigError, match="adapter-codegen add-model"):
        dataclasses.replace(QWEN2, adapter_methods=["prefix_tuning"])


def test_options_that_hooks_cannot_honour_are_refused() -> None:
    options = {"output_adapter": True, "reduction_factor": 4, "non_linearity": "relu"}
    model = qwen2()
    with pytest.raises(UnsupportedMethodError, match="original_ln_after=False"):
        model.add_adapter("a", BnConfig(mh_adapter=False, original_ln_after=False, **options))
    model = qwen2(dataclasses.replace(QWEN2, layer_pre_ffn=None, attn_o_proj=None))
    with pytest.raises(UnsupportedMethodError, match=r"is_parallel=True.*layer_pre_ffn"):
        model.add_adapter("a", "par_bn")
    with pytest.raises(UnsupportedMethodError, match="attn_o_proj"):
        model.add_adapter("a", "double_seq_bn")
    model = gemma2()
    init(model, interface=dataclasses.replace(GEMMA2, layer_pre_ffn=None))
    with pytest.raises(UnsupportedMethodError, match="layer_ln_2, but no layer_pre_ffn"):
        model.add_adapter("a", "seq_bn")


def test_a_residual_that_never_comes_is_an_error() -> None:
    model = qwen2(dataclasses.replace(QWEN2, layer_pre_ffn="mlp.act_fn", layer_output_proj="self_attn.o_proj"))
    add(model, "a", "seq_bn")
    model.set_active_adapters("a")
    with pytest.raises(UnsupportedModelError, match=r"Layer 0.*layer_pre_ffn \('mlp.act_fn'\) did not run before"):
        logits(model)


def test_a_base_model_alone_can_be_described() -> None:
    torch.manual_seed(0)
    model = Qwen2Model(Qwen2Config(**TINY)).eval()
    init(model, interface=QWEN2)
    add(model, "a", "seq_bn")
    assert "layers.0.output_adapters.adapters.a.adapter_up.weight" in model.state_dict()
