"""Adapters in models nobody generated: interfaces, their checks, what runs by hooks, and their files."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertForMaskedLM,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
)

import adapter_models
from adapter_runtime import init, registry
from adapter_runtime.composition import Average, BatchSplit, Parallel, Stack
from adapter_runtime.configuration import BnConfig, LoRAConfig
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.files.errors import AdapterFileError, AdapterMismatchError
from adapter_runtime.interface import AdapterMethod, AdapterModelInterface
from adapter_runtime.interface.loading import load_model
from runtime_models import adapted, randomise

FIXTURES = Path(__file__).parent / "fixtures" / "interface"
CASES = sorted(path.parent for path in FIXTURES.glob("*/*/expected.safetensors"))
CLASSES = {
    "qwen2": Qwen2ForCausalLM,
    "gemma2": Gemma2ForCausalLM,
    "phi": PhiForCausalLM,
    "modernbert": ModernBertForMaskedLM,
}
TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
SEPARATE = {"attn_q_proj": "q_proj", "attn_k_proj": "k_proj", "attn_v_proj": "v_proj"}
QWEN2 = AdapterModelInterface(
    adapter_methods=["bottleneck", "lora", "reft", "invertible", "prompt_tuning"],
    model_embeddings="embed_tokens",
    model_layers="layers",
    layer_self_attn="self_attn",
    layer_cross_attn=None,
    attn_o_proj="o_proj",
    layer_intermediate_proj="mlp.up_proj",
    layer_output_proj="mlp.down_proj",
    layer_pre_self_attn="input_layernorm",
    layer_pre_ffn="post_attention_layernorm",
    **SEPARATE,
)
GEMMA2 = dataclasses.replace(
    QWEN2,
    layer_pre_ffn="pre_feedforward_layernorm",
    layer_ln_1="post_attention_layernorm",
    layer_ln_2="post_feedforward_layernorm",
)
BART = AdapterModelInterface(
    adapter_methods=["bottleneck", "lora"],
    model_embeddings="layernorm_embedding",
    model_layers="layers",
    layer_self_attn="self_attn",
    layer_cross_attn=None,
    attn_o_proj="out_proj",
    layer_intermediate_proj="fc1",
    layer_output_proj="fc2",
    layer_pre_self_attn="self_attn",
    layer_pre_ffn="fc1",
    layer_ln_1="self_attn_layer_norm",
    layer_ln_2="final_layer_norm",
    **SEPARATE,
)
BART_PARTS = {
    "encoder": BART,
    "decoder": dataclasses.replace(BART, layer_cross_attn="encoder_attn", layer_pre_cross_attn="encoder_attn"),
}
BERT = AdapterModelInterface(
    adapter_methods=["bottleneck", "lora"],
    model_embeddings="embeddings",
    model_layers="encoder.layer",
    layer_self_attn="attention",
    layer_cross_attn=None,
    attn_q_proj="self.query",
    attn_k_proj="self.key",
    attn_v_proj="self.value",
    attn_o_proj="output.dense",
    layer_intermediate_proj="intermediate.dense",
    layer_output_proj="output.dense",
    layer_pre_self_attn="attention.self",
    layer_pre_ffn="intermediate",
    layer_ln_1="attention.output.LayerNorm",
    layer_ln_2="output.LayerNorm",
)
TOKENS = torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(3))


def qwen2(interface: AdapterModelInterface | None = QWEN2, **options: Any) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**TINY, **options)).eval()
    if interface is not None:
        init(model, interface=interface)
    return model


def gemma2(layers: int = 3) -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    config = Gemma2Config(**{**TINY, "num_hidden_layers": layers}, head_dim=8, pad_token_id=0)
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def bart() -> BartForConditionalGeneration:
    torch.manual_seed(0)
    sizes = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in (
        ("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
    return BartForConditionalGeneration(BartConfig(vocab_size=40, d_model=16, **sizes)).eval()


def add(model: PreTrainedModel, name: str, config: Any, seed: int = 1) -> None:
    model.add_adapter(name, config)
    randomise(model, name, seed)


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: torch.Tensor = TOKENS, **kwargs: Any) -> torch.Tensor:
    return model(tokens, **kwargs).logits


# Files of `adapters`


@pytest.mark.parametrize("folder", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_of_interface_models_load_and_compute_the_same(folder: Path) -> None:
    model = CLASSES[folder.parent.name].from_pretrained(folder.parent / "base", attn_implementation="eager").eval()
    expected = load_file(folder / "expected.safetensors")
    given = {"input_ids": expected["input_ids"], "attention_mask": expected["attention_mask"]}
    real = given["attention_mask"].bool()
    init(model, interface=AdapterModelInterface.load(folder))
    assert_close(
        logits(model, given["input_ids"], attention_mask=given["attention_mask"])[real], expected["base"][real]
    )
    assert model.load_adapter(folder, set_active=True) == "a"
    changed = logits(model, given["input_ids"], attention_mask=given["attention_mask"])
    assert_close(changed[real], expected["logits"][real], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed[real], expected["base"][real], atol=1e-3)


def test_there_are_files_of_all_kinds() -> None:
    assert {path.parent.name for path in CASES} == set(CLASSES)
    assert len(CASES) >= 11


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


# Checks of an interface


def test_the_methods_are_an_enumeration_and_strings() -> None:
    assert AdapterMethod.lora == "lora"
    assert dataclasses.replace(QWEN2, adapter_methods=[AdapterMethod.lora]).to_dict()["adapter_methods"] == ["lora"]
    assert AdapterMethod.get_from_config(adapter_models.ADAPTER_CONFIG_MAP["seq_bn_inv"]) == [
        "bottleneck",
        "invertible",
    ]
    assert AdapterMethod.get_from_config(adapter_models.ADAPTER_CONFIG_MAP["mam"]) == ["bottleneck", "prefix_tuning"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter_methods": []}, "adapter_methods is empty"),
        ({"adapter_methods": "lora"}, "Give a list"),
        ({"adapter_methods": ["lorra"]}, "Did you mean 'lora'"),
        ({"attn_qkv_proj": "qkv"}, "attn_qkv_proj and attn_q_proj, attn_k_proj, attn_v_proj are given"),
        ({"attn_q_proj": None, "attn_k_proj": None, "attn_v_proj": None}, "attn_k_proj, attn_q_proj, attn_v_proj not"),
        ({"attn_q_proj": None}, "attn_q_proj not given"),
        ({"model_layers": None}, "model_layers is None"),
        ({"layer_self_attn": ""}, "layer_self_attn is ''"),
    ],
)
def test_an_interface_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        dataclasses.replace(QWEN2, **change)


WRONG = [
    ("model_embeddings", "embed_token", "'embed_tokens'"),
    ("model_layers", "layer", "'layers'"),
    ("model_layers", "norm", "must be a list of layers"),
    ("layer_self_attn", "self_attention", "'self_attn'"),
    ("layer_cross_attn", "cross_attn", "'self_attn'"),
    ("layer_intermediate_proj", "mlp.up", "'mlp.up_proj'"),
    ("layer_output_proj", "mlp.down", "'mlp.down_proj'"),
    ("layer_pre_self_attn", "input_norm", "'input_layernorm'"),
    ("layer_pre_cross_attn", "input_norm", "'input_layernorm'"),
    ("layer_pre_ffn", "post_attn_layernorm", "'post_attention_layernorm'"),
    ("layer_ln_1", "ln_1", "Known"),
    ("layer_ln_2", "ln_2", "Known"),
    ("attn_q_proj", "q_prj", "'q_proj'"),
    ("attn_k_proj", "k", "Known"),
    ("attn_v_proj", "v_prj", "'v_proj'"),
    ("attn_o_proj", "out_proj", "'o_proj'"),
]


@pytest.mark.parametrize(("field", "path", "hint"), WRONG, ids=[f"{field}-{path}" for field, path, _ in WRONG])
def test_a_wrong_path_is_named_with_near_ones_and_changes_nothing(field: str, path: str, hint: str) -> None:
    model = qwen2(None)
    classes = {module: type(module) for module in model.modules()}
    with pytest.raises(InvalidConfigError) as caught:
        init(model, interface=dataclasses.replace(QWEN2, **{field: path}))
    assert field in str(caught.value) and repr(path) in str(caught.value) and hint in str(caught.value)
    assert {module: type(module) for module in model.modules()} == classes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_wrong_qkv_path_and_a_wrong_part_are_named() -> None:
    fused = dataclasses.replace(QWEN2, attn_qkv_proj="qkv", attn_q_proj=None, attn_k_proj=None, attn_v_proj=None)
    with pytest.raises(InvalidConfigError, match="attn_qkv_proj is 'qkv'"):
        init(qwen2(None), interface=fused)
    with pytest.raises(InvalidConfigError, match=r"no module 'encodr'. Did you mean 'encoder'"):
        init(bart(), interface={"encodr": BART})
    with pytest.raises(InvalidConfigError, match="no AdapterModelInterface"):
        init(bart(), interface={})
    with pytest.raises(InvalidConfigError, match=r"interface\['encoder'\]"):
        init(bart(), interface={"encoder": "bart"})  # type: ignore[dict-item]


def test_a_path_that_only_some_layers_have_is_allowed() -> None:
    model = qwen2(None)
    del model.model.layers[1].mlp.gate_proj
    model.model.layers[1].mlp = nn.Identity()
    init(model, interface=QWEN2)
    add(model, "a", "seq_bn")
    assert sorted(model.get_adapter("a")) == [0, 2]
    model.set_active_adapters("a")
    logits(model)


def test_another_base_model_can_be_named() -> None:
    model = qwen2(None)
    model.base_model_prefix = "missing"
    with pytest.raises(InvalidConfigError, match="'embed_tokens', but Qwen2ForCausalLM has no such module"):
        init(model, interface=QWEN2)
    init(model, interface=dataclasses.replace(QWEN2, base_model="model"))
    assert model.adapters_base is model.model
    add(model, "a", "seq_bn")
    assert "model.layers.0.output_adapters.adapters.a.adapter_up.weight" in model.state_dict()
    with pytest.raises(InvalidConfigError, match="base_model is 'config'"):
        init(qwen2(None), interface=dataclasses.replace(QWEN2, base_model="config"))


def test_an_interface_has_precedence_over_generated_classes() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    init(model, interface=QWEN2)
    assert type(model.model.layers[0]).__mro__[1].__name__ == "InterfaceLayerAdaptersMixin"
    init(model, interface=QWEN2)  # the same again
    init(model)
    with pytest.raises(UnsupportedModelError, match="by another interface"):
        init(model, interface=dataclasses.replace(QWEN2, layer_pre_ffn=None))
    generated = LlamaForCausalLM(LlamaConfig(**TINY))
    init(generated)
    with pytest.raises(UnsupportedModelError, match="by generated classes"):
        init(generated, interface=QWEN2)


@pytest.fixture
def nothing_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no models had been generated."""
    emptied = dataclasses.replace(registry.registered(), model_mixins={}, with_adapters={}, model_types=())
    monkeypatch.setattr(registry, "_registry", emptied)


@pytest.mark.usefixtures("nothing_generated")
def test_without_an_interface_both_ways_out_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"adapter-codegen add-model.*interface=AdapterModelInterface"):
        init(GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)))


# Files


def test_the_interface_is_written_beside_the_adapter(tmp_path: Path) -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.save_adapter(tmp_path, "a")
    document = json.loads((tmp_path / "adapter_interface.json").read_text())
    assert document["model_type"] == "qwen2"
    assert document["interface"] == QWEN2.to_dict()
    assert len(document["interface"]) == 18
    assert document["version"].startswith("adapter-codegen.")
    assert AdapterModelInterface.load(tmp_path) == QWEN2
    generated = adapted("llama")
    generated.add_adapter("a", "seq_bn")
    generated.save_adapter(tmp_path / "generated", "a")
    assert not (tmp_path / "generated" / "adapter_interface.json").exists()


def test_an_adapter_comes_back_with_the_same_outputs(tmp_path: Path) -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn|lora")
    model.set_active_adapters("a")
    model.save_adapter(tmp_path, "a")
    fresh = qwen2(None)
    init(fresh, interface=AdapterModelInterface.load(tmp_path))
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(logits(fresh), logits(model))


@pytest.mark.usefixtures("nothing_generated")
@pytest.mark.parametrize("model_class", [Qwen2ForCausalLM, AutoModelForCausalLM])
def test_load_model_finds_the_interface_and_the_weights(tmp_path: Path, model_class: Any) -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, model_class)
    assert loaded.adapters_base.adapter_interface == QWEN2
    assert type(loaded).__name__ == "Qwen2ForCausalLM"
    loaded.set_active_adapters("a")
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(logits(pickle.loads(pickle.dumps(loaded))), logits(model))
    (tmp_path / "adapter_interface.json").unlink()
    with pytest.raises(UnsupportedModelError, match="AdapterModelInterface"):
        load_model(tmp_path, model_class)
    assert load_model(tmp_path, model_class, QWEN2).adapters_base.adapter_interface == QWEN2


def test_load_model_of_generated_classes_needs_no_interface(tmp_path: Path) -> None:
    model = adapted("llama_lm")
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, LlamaForCausalLM, attn_implementation="eager")
    loaded.set_active_adapters("a")
    assert torch.equal(logits(loaded), logits(model))
    flexible = load_model(tmp_path, adapter_models.LlamaAdapterModel)
    assert "a" in flexible.adapters_config
    with pytest.raises(UnsupportedModelError, match="needs no interface"):
        load_model(tmp_path, adapter_models.LlamaAdapterModel, QWEN2)


def test_interfaces_of_parts_are_written_and_read(tmp_path: Path) -> None:
    model = bart()
    init(model, interface=BART_PARTS)
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    model.save_adapter(tmp_path, "a")
    fresh = bart()
    init(fresh, interface=AdapterModelInterface.load(tmp_path))
    assert fresh.adapters_base.adapter_interface == BART_PARTS
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(logits(fresh), logits(model))
    other = bart()
    init(other, interface={"encoder": BART})
    with pytest.raises(AdapterMismatchError, match="describes the parts"):
        other.load_adapter(tmp_path)


def test_an_adapter_of_another_interface_is_refused(tmp_path: Path) -> None:
    model = qwen2()
    add(model, "a", "seq_bn")
    model.save_adapter(tmp_path, "a")
    other = qwen2(dataclasses.replace(QWEN2, layer_pre_ffn="mlp"))
    with pytest.raises(
        AdapterMismatchError, match="layer_pre_ffn is 'post_attention_layernorm'; in this model it is 'mlp'"
    ):
        other.load_adapter(tmp_path)
    assert not other.has_adapters()
    assert other.load_adapter(tmp_path, strict=False) == "a"
    fewer = qwen2(dataclasses.replace(QWEN2, adapter_methods=["bottleneck"]))
    assert fewer.load_adapter(tmp_path) == "a"


@pytest.mark.parametrize(
    ("interface", "config", "message"),
    [
        (QWEN2, "seq_bn", None),
        (dataclasses.replace(QWEN2, layer_ln_1="input_layernorm"), "lora", None),
        (dataclasses.replace(QWEN2, layer_ln_1="input_layernorm"), "seq_bn", "layer_ln_1"),
        (dataclasses.replace(QWEN2, layer_pre_ffn=None), "seq_bn", "gives no layer_pre_ffn"),
    ],
)
def test_generated_classes_take_files_that_mean_the_same(
    tmp_path: Path, interface: AdapterModelInterface, config: str, message: str | None
) -> None:
    torch.manual_seed(0)
    generated = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    described = copy.deepcopy(generated)
    init(described, interface=interface)
    init(generated)
    add(described, "a", config)
    described.set_active_adapters("a")
    described.save_adapter(tmp_path, "a")
    if message is not None:
        with pytest.raises(AdapterMismatchError, match=message):
            generated.load_adapter(tmp_path)
        return
    generated.load_adapter(tmp_path, set_active=True)
    assert_close(logits(generated), logits(described))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("{}", "fields of an interface"),
        ('{"interface": {"model_layer": "x"}}', "no field 'model_layer'. Did you mean 'model_layers'"),
        ('{"interface": {"model_layers": "x"}}', "adapter_methods, model_embeddings"),
        ('{"interfaces": {"encoder": 3}}', "fields of an interface"),
    ],
)
def test_a_damaged_interface_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "adapter_interface.json").write_text(content)
    with pytest.raises(AdapterFileError, match=message):
        AdapterModelInterface.load(tmp_path)
    with pytest.raises(AdapterFileError, match=r"has no adapter_interface\.json"):
        AdapterModelInterface.load(tmp_path / "..")


def test_a_base_model_alone_can_be_described() -> None:
    torch.manual_seed(0)
    model = Qwen2Model(Qwen2Config(**TINY)).eval()
    init(model, interface=QWEN2)
    add(model, "a", "seq_bn")
    assert "layers.0.output_adapters.adapters.a.adapter_up.weight" in model.state_dict()
