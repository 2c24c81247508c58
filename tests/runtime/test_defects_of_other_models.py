"""Defects of `adapters` 1.3.0 in models other than those that the tests around are about. `test_defects.py` has the index."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertGenerationConfig,
    BertGenerationDecoder,
    DebertaConfig,
    DistilBertConfig,
    GPT2Config,
    MistralConfig,
    ModernBertConfig,
    PreTrainedModel,
    ViTConfig,
)

import adapter_models
from adapter_runtime.composition import Parallel

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
CONFIGS: dict[str, Any] = {
    "mistral": MistralConfig(**SIZES, num_key_value_heads=2, pad_token_id=0, eos_token_id=None),
    "gpt2": GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, pad_token_id=0, eos_token_id=None),
    "distilbert": DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "modernbert": ModernBertConfig(**SIZES, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2),
    "deberta": DebertaConfig(**SIZES, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "bert-generation": BertGenerationConfig(**SIZES, is_decoder=True),
    "vit": ViTConfig(**{**SIZES, "image_size": 8, "patch_size": 4}),
    "bart": BartConfig(
        vocab_size=60, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    ),
}  # fmt: skip
IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(1))
MASK = torch.ones(2, 7, dtype=torch.long)
MASK[1, :3] = 0


def upstream(kind: str, cls: Any = AutoModel, attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[kind])
    config._attn_implementation = attention
    model = cls.from_config(config) if hasattr(cls, "from_config") else cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def adapted(kind: str, adapter: str = "", cls: Any = AutoModel, attention: str = "eager") -> PreTrainedModel:
    """The same with one active adapter of values that matter."""
    model = upstream(kind, cls, attention)
    adapter_models.init(model)
    if adapter:
        add(model, "a", adapter)
        model.set_active_adapters("a")
    return model


def add(model: PreTrainedModel, name: str, adapter: str) -> None:
    model.add_adapter(name, adapter)
    with torch.no_grad():
        for parameter in model.trained_parameters(name):
            parameter.copy_(torch.randn(parameter.shape) * 0.3)


def generated(model: PreTrainedModel, **settings: Any) -> torch.Tensor:
    ids = model.generate(IDS, attention_mask=MASK, max_new_tokens=6, do_sample=False, **settings)
    assert isinstance(ids, torch.Tensor)
    return ids


def test_defect_1_the_cache_fills_and_generation_is_upstreams() -> None:
    plain = generated(upstream("mistral", AutoModelForCausalLM))
    model = adapted("mistral", cls=AutoModelForCausalLM)
    assert model(IDS, use_cache=True).past_key_values.get_seq_length() == 7
    assert torch.equal(generated(model), plain) and torch.equal(generated(model, use_cache=False), plain)
    model = adapted("mistral", "double_seq_bn", AutoModelForCausalLM)
    assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=False))


def test_defect_2_fused_projections_without_bias_get_none() -> None:
    for kind in ("deberta", "modernbert"):
        expected = upstream(kind)(IDS, attention_mask=MASK)[0]
        model = adapted(kind)
        keys = list(model.state_dict())
        assert torch.equal(model(IDS, attention_mask=MASK)[0], expected), kind
        add(model, "a", "lora")
        assert torch.equal(model(IDS, attention_mask=MASK)[0], expected)
        assert [key for key in model.state_dict() if key.endswith(("Wqkv.bias", "in_proj.bias"))] == []
        model.delete_adapter("a")
        assert list(model.state_dict()) == keys


def test_defect_3_a_prefix_has_the_same_effect_under_sdpa() -> None:
    for kind in ("mistral", "gpt2", "bart"):
        for mask in (None, MASK):
            found = [
                adapted(kind, "prefix_tuning", attention=name)(IDS, attention_mask=mask)[0]
                for name in ("eager", "sdpa")
            ]
            real = torch.ones_like(MASK).bool() if mask is None else mask.bool()
            assert_close(found[0][real], found[1][real], atol=1e-5, rtol=1e-4)
            bare = adapted(kind, attention="sdpa")(IDS, attention_mask=mask)[0]
            assert not torch.allclose(found[1], bare, atol=1e-3)


def test_defect_4_asking_for_attentions_keeps_prefixes_and_prompts() -> None:
    for adapter in ("prefix_tuning", "prompt_tuning"):
        model = adapted("distilbert", adapter, attention="sdpa")
        expected = model(IDS, attention_mask=MASK)[0]
        assert_close(model(IDS, attention_mask=MASK, output_attentions=True)[0], expected)


def test_defect_5_asking_for_attentions_leaves_logits_alone() -> None:
    model = upstream("gpt2", AutoModelForCausalLM, "sdpa")
    expected = model(IDS, attention_mask=MASK).logits
    adapter_models.init(model)
    found = model(IDS, attention_mask=MASK, output_attentions=True).logits
    assert_close(found[MASK.bool()], expected[MASK.bool()], atol=1e-5, rtol=1e-4)


def test_defect_13_the_names_of_places_in_the_feed_forward_block_are_not_exchanged() -> None:
    model = adapted("mistral")
    model.add_adapter("first", "lora[selfattn_lora=False,intermediate_lora=True]")
    model.add_adapter("last", "lora[selfattn_lora=False,output_lora=True]")
    assert list(model.layers[0].mlp.up_proj.loras) == ["first"]
    assert list(model.layers[0].mlp.down_proj.loras) == ["last"]


def test_defect_14_reft_edits_the_same_positions_with_a_cache() -> None:
    for kind, cls in (("gpt2", AutoModelForCausalLM), ("bart", BartForConditionalGeneration)):
        model = adapted(kind, "loreft[prefix_positions=2,suffix_positions=2]", cls)
        assert torch.equal(generated(model, use_cache=True), generated(model, use_cache=False)), kind


def test_defect_14_reft_leaves_attention_weights_alone() -> None:
    model = adapted("distilbert", "loreft")
    outputs = model(IDS, attention_mask=MASK, output_attentions=True, output_hidden_states=True)
    assert {tuple(weights.shape) for weights in outputs.attentions} == {(2, 4, 7, 7)}
    assert {tuple(states.shape) for states in outputs.hidden_states} == {(2, 7, 32)}
    assert_close(outputs[0], model(IDS, attention_mask=MASK)[0])


def test_defect_19_a_decoder_of_bert_generation_uses_its_cache() -> None:
    for adapter in ("prefix_tuning", "lora"):
        model = adapted("bert-generation", adapter, BertGenerationDecoder)
        whole = model(IDS).logits
        first = model(IDS[:, :5], use_cache=True)
        rest = model(IDS[:, 5:], past_key_values=first.past_key_values, use_cache=True)
        assert_close(torch.cat([first.logits, rest.logits], dim=1), whole, atol=1e-5, rtol=1e-4)


def test_defect_20_parallel_lora_of_images_and_of_encoder_decoders() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    for kind, inputs in (("vit", {"pixel_values": images}), ("bart", {"input_ids": IDS, "attention_mask": MASK})):
        model = adapted(kind)
        for name in "ab":
            add(model, name, "lora")
        single = []
        for name in "ab":
            model.set_active_adapters(name)
            single.append(model(**inputs)[0])
        model.set_active_adapters(Parallel("a", "b"))
        assert_close(model(**inputs)[0], torch.cat(single), atol=1e-5, rtol=1e-4)


def test_defect_21_fused_projections_take_every_member_of_the_lora_family() -> None:
    for kind in ("gpt2", "modernbert"):
        for adapter in ("dora", "vera", "dvora", "mtl_lora"):
            model = adapted(kind, adapter)
            expected = model(IDS, attention_mask=MASK)[0]
            assert not torch.allclose(expected, adapted(kind)(IDS, attention_mask=MASK)[0], atol=1e-3), (kind, adapter)
            model.merge_adapter("a")
            assert_close(model(IDS, attention_mask=MASK)[0], expected, atol=1e-4, rtol=1e-3)
