"""Models that tests describe by an interface, and their interfaces."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import adapter_models  # noqa: F401  registers
from adapter_runtime import init
from adapter_runtime.model.interface.declaration import AdapterModelInterface
from runtime_models import randomise

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
    output: torch.Tensor = model(tokens, **kwargs).logits
    return output
