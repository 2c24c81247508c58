"""Models that do what few others do: what the runtime makes of them."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModel,
    EsmcConfig,
    GteConfig,
    HrmTextConfig,
    LiltConfig,
    LxmertConfig,
    MegatronBertConfig,
    MixtralConfig,
    NomicBertConfig,
    OpenAIGPTConfig,
    OwlViTConfig,
    PreTrainedModel,
    ProphetNetConfig,
    RemBertConfig,
    RoFormerConfig,
    TapasConfig,
)

import adapter_models
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
IMAGES = {**SIZES, "image_size": 8, "patch_size": 4}
CONFIGS: dict[str, Any] = {
    "megatron-bert": MegatronBertConfig(**SIZES),
    "rembert": RemBertConfig(**SIZES, input_embedding_size=16),
    "roformer": RoFormerConfig(**SIZES, embedding_size=32),
    "tapas": TapasConfig(**SIZES),
    "lxmert": LxmertConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, intermediate_size=48, l_layers=2, x_layers=2, r_layers=2,
        visual_feat_dim=6, bos_token_id=1, eos_token_id=2,
    ),
    "owlvit": OwlViTConfig(
        text_config={**SIZES, "bos_token_id": 1, "eos_token_id": 2}, vision_config={**IMAGES}, projection_dim=16
    ),
    "mixtral": MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2),
    "gte": GteConfig(**SIZES),
    "nomic_bert": NomicBertConfig(**SIZES),
    "esmc": EsmcConfig(**SIZES),
    "lilt": LiltConfig(**{**SIZES, "hidden_size": 48}, channel_shrink_ratio=2),
    "openai-gpt": OpenAIGPTConfig(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=32),
    "prophetnet": ProphetNetConfig(
        vocab_size=60, hidden_size=32, encoder_ffn_dim=48, decoder_ffn_dim=48, num_encoder_layers=2, num_decoder_layers=2,
        num_encoder_attention_heads=4, num_decoder_attention_heads=4, ngram=2, pad_token_id=0,
    ),
    "hrm_text": HrmTextConfig(**SIZES, head_dim=8, H_cycles=2, L_cycles=3, pad_token_id=0),
}  # fmt: skip
IDS = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(1))
ONES = torch.ones(2, 7, dtype=torch.long)


def upstream(kind: str, attention: str = "eager") -> PreTrainedModel:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[kind])
    config._attn_implementation = attention
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def adapted(kind: str, adapter: str, attention: str = "eager") -> PreTrainedModel:
    """A model with an active adapter of values that matter."""
    model = upstream(kind, attention)
    adapter_models.init(model)
    model.add_adapter("a", adapter, set_active=True)
    with torch.no_grad():
        for parameter in model.trained_parameters("a"):
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model


def first(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    found = model(**inputs)[0]
    assert isinstance(found, torch.Tensor)
    return found


def without_gradients(model: PreTrainedModel) -> list[str]:
    """The trained parameters of the adapter that a sum over the outputs gives no gradient."""
    model.train_adapter("a")
    first(model.eval(), input_ids=IDS).pow(2).sum().backward()
    trained = ((key, one.grad) for key, one in model.adapter_parameters("a") if one.requires_grad)
    return [key for key, gradient in trained if gradient is None or not gradient.any()]


# Prefixes where scores are written out


def test_behind_a_prefix_tokens_still_see_later_ones() -> None:
    changed = IDS.clone()
    changed[:, -1] += 1
    for kind in ("megatron-bert", "rembert", "roformer", "tapas"):
        model = adapted(kind, "prefix_tuning_flat[prefix_length=3]")
        assert not torch.allclose(first(model, input_ids=IDS)[:, 0], first(model, input_ids=changed)[:, 0]), kind


def test_a_prefix_moves_no_real_token_of_a_padded_row() -> None:
    mask = ONES.clone()
    mask[1, 4:] = 0
    for kind in ("megatron-bert", "rembert", "roformer", "tapas"):
        model = adapted(kind, "prefix_tuning_flat[prefix_length=3]")
        padded = first(model, input_ids=IDS, attention_mask=mask)[1, :4]
        assert_close(padded, first(model, input_ids=IDS[1:, :4])[0], msg=kind, atol=1e-5, rtol=1e-4)


def test_a_prefix_sees_no_less_of_images_without_a_mask() -> None:
    features, boxes = torch.randn(2, 5, 6), torch.rand(2, 5, 4)
    model = adapted("lxmert", "prefix_tuning_flat[prefix_length=3]")
    given = {"input_ids": IDS, "visual_feats": features, "visual_pos": boxes}
    seen = torch.ones(2, 5)
    assert_close(first(model, **given), first(model, **given, attention_mask=ONES, visual_attention_mask=seen))


def test_layers_that_run_first_without_gradients_give_a_prefix_its_gradients() -> None:
    for adapter in (
        "prefix_tuning_flat[prefix_length=3]",
        "prefix_tuning[prefix_length=3]",
        "compacter[reduction_factor=8]",
    ):
        assert without_gradients(adapted("hrm_text", adapter)) == [], adapter


# Embeddings and streams


def test_a_prompt_moves_the_positions_that_go_on_behind_the_embeddings() -> None:
    mask = ONES.clone()
    mask[1, 4:] = 0
    for kind in ("gte", "nomic_bert"):
        model = adapted(kind, "prompt_tuning[prompt_length=3]")
        whole = first(model, input_ids=IDS, attention_mask=mask)
        assert whole.shape[1] == 10, kind
        assert_close(whole[1, :7], first(model, input_ids=IDS[1:, :4])[0], atol=1e-5, rtol=1e-4, msg=kind)
        given = first(model, input_ids=IDS, attention_mask=mask, position_ids=torch.arange(7)[None])
        assert_close(given[0], whole[0], msg=kind)


def test_a_model_that_takes_no_embeddings_has_no_prompts_and_says_so() -> None:
    model = upstream("esmc")
    adapter_models.init(model)
    assert not model.supports_adapter("prompt_tuning") and model.supports_adapter("prefix_tuning")
    with pytest.raises(UnsupportedMethodError, match="takes no inputs_embeds"):
        model.add_adapter("a", "prompt_tuning")


def test_embeddings_that_give_a_tuple_take_an_invertible_adapter() -> None:
    model = adapted("lilt", "seq_bn_inv")
    dead = without_gradients(model)
    assert dead == [], dead


def test_a_layer_that_gives_a_list_is_edited() -> None:
    model = adapted("openai-gpt", "loreft")
    dead = without_gradients(model)
    assert dead == [], dead


def test_reft_edits_the_tokens_where_other_streams_stand_behind_them() -> None:
    model = adapted("prophetnet", "loreft")
    states = first(model, input_ids=IDS, decoder_input_ids=IDS)
    shorter = first(model, input_ids=IDS, decoder_input_ids=IDS[:, :-1])
    assert torch.allclose(states[:, :-1], shorter, atol=1e-5)
    model.set_active_adapters(None)
    assert not torch.allclose(first(model, input_ids=IDS, decoder_input_ids=IDS), states, atol=1e-3)


# Files and configs


def test_a_config_without_a_hidden_size_of_its_own_is_written() -> None:
    model = adapted("owlvit", "lora")
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, "a")
        document = json.loads((Path(folder) / "adapter_config.json").read_text())
        assert document["hidden_size"] in (None, 32), document["hidden_size"]
        fresh = upstream("owlvit")
        adapter_models.init(fresh)
        fresh.load_adapter(folder)
    for key, value in model.adapter_parameters("a"):
        assert torch.equal(fresh.get_parameter(key), value), key


def test_experts_have_no_place_for_a_first_projection_and_say_so() -> None:
    model = upstream("mixtral")
    adapter_models.init(model)
    assert not model.supports_adapter("lora[intermediate_lora=True]") and model.supports_adapter("ia3")
    with pytest.raises(InvalidConfigError, match="intermediate_lora=True, but no layer of MixtralModel"):
        model.add_adapter("a", "lora[intermediate_lora=True]")
    model.add_adapter("b", "ia3")  # whose preset asks for it; keys and values are there
