"""Models for tests of the runtime: tiny BERT and Llama, upstream's classes turned by `init`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
)

import adapter_models  # noqa: F401  registers
from adapter_runtime import init

LLAMA = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,  # not hidden_size / heads, as in Gemma and Qwen
    "pad_token_id": 0,
}
BERT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
CLASSES: dict[str, tuple[type[PreTrainedModel], Callable[[], PreTrainedConfig]]] = {
    "bert": (BertModel, lambda: BertConfig(**BERT)),
    "bert_lm": (BertForMaskedLM, lambda: BertConfig(**BERT)),
    "bert_decoder": (BertModel, lambda: BertConfig(**BERT, is_decoder=True, add_cross_attention=True)),
    "llama": (LlamaModel, lambda: LlamaConfig(**LLAMA)),
    "llama_lm": (LlamaForCausalLM, lambda: LlamaConfig(**LLAMA)),
}


def upstream(kind: str, attention: str = "eager") -> PreTrainedModel:
    """An untouched model with random weights, the same each time."""
    torch.manual_seed(0)
    cls, config = CLASSES[kind]
    made = config()
    made._attn_implementation = attention
    return cls(made).eval()


def adapted(kind: str, attention: str = "eager") -> PreTrainedModel:
    """The same model after `init`."""
    model = upstream(kind, attention)
    init(model)
    return model


def randomise(model: PreTrainedModel, name: str, seed: int = 1) -> None:
    """Give all parameters of an adapter values that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in model.adapter_parameters(name):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
