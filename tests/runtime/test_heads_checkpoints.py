"""Checkpoints of upstream's classes with a head, whose names in files are not those of the class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from adapter_models import AutoAdapterModel
from adapter_runtime.heads.static import key_mapping

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
IDS = torch.arange(3, 10)[None]


def renamed(architecture: str, prefix: str) -> dict[str, str]:
    """Pattern without its ends -> name of a checkpoint in a model with a flexible head."""
    found = key_mapping(architecture, "default", prefix)
    return {pattern.strip("^$").replace("\\", ""): name for pattern, name in found.items()}


@pytest.mark.parametrize(
    ("architecture", "prefix", "name", "target"),
    [
        pytest.param("GPTNeoXForCausalLM", "gpt_neox", "embed_out.weight", "heads.default.0.weight", id="older name"),
        pytest.param("GteForMaskedLM", "gte", "lm_head.norm.bias", "heads.default.2.bias", id="older name of a norm"),
        pytest.param(
            "BertForMaskedLM", "bert", "cls.predictions.bias", "heads.default.3.bias", id="shared in the head"
        ),
        pytest.param("LlamaForCausalLM", "model", "embed_out.weight", None, id="no: a name of another class"),
        pytest.param("Llama4ForCausalLM", "model", "model.embed_tokens.weight", None, id="no: embeddings"),
        pytest.param("T5ForConditionalGeneration", "transformer", "shared.weight", None, id="no: shared embeddings"),
    ],
)
def test_what_a_file_calls_the_parts_of_a_head(architecture: str, prefix: str, name: str, target: str | None) -> None:
    assert renamed(architecture, prefix).get(name) == target


@pytest.mark.parametrize(
    "upstream",
    [
        pytest.param(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)), id="an older name"),
        pytest.param(
            lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, tie_word_embeddings=True)), id="tied, with an older name"
        ),
        pytest.param(lambda: Llama4ForCausalLM(llama4()), id="a base model where the class does not say it is"),
        pytest.param(lambda: T5ForConditionalGeneration(t5(True)), id="tied"),
        pytest.param(lambda: T5ForConditionalGeneration(t5(False)), id="untied"),
    ],
)
def test_the_model_with_a_flexible_head_gives_upstreams_logits(upstream: object, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = upstream()  # type: ignore[operator]
    model.save_pretrained(tmp_path)
    flexible = AutoAdapterModel.from_pretrained(tmp_path)
    given = {"input_ids": IDS} | ({"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {})
    with torch.no_grad():
        assert_close(flexible.eval()(**given).logits, model.eval()(**given).logits)


def llama4() -> Llama4TextConfig:
    return Llama4TextConfig(
        **SIZES, intermediate_size_mlp=48, num_key_value_heads=2, head_dim=8, num_local_experts=2, moe_layers=[]
    )


def t5(is_tied: bool) -> T5Config:
    return T5Config(vocab_size=40, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, tie_word_embeddings=is_tied)
