"""What is checked of an interface, by itself and against a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import adapter_models
from adapter_runtime import init
from adapter_runtime.errors import InvalidConfigError, UnsupportedModelError
from adapter_runtime.model.interface.declaration import AdapterMethod
from interface_models import BART, QWEN2, TINY, add, bart, logits, qwen2


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
    with pytest.raises(InvalidConfigError, match="name the same layers"):
        init(
            qwen2(None),
            interface={
                "": dataclasses.replace(
                    QWEN2, model_layers="model.layers", model_embeddings="model.embed_tokens", base_model="lm"
                ),
                "model": QWEN2,
            },
        )
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


@pytest.mark.usefixtures("nothing_generated")
def test_without_an_interface_both_ways_out_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"adapter-codegen add-model.*interface=AdapterModelInterface"):
        init(GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2)))
