"""Upstream's classes with a head that hold the layers themselves: T5ForConditionalGeneration, T5ForQuestionAnswering."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForCausalLM,
    BartModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    T5ForQuestionAnswering,
    T5ForTokenClassification,
)

from adapter_models import AutoAdapterModel, init
from adapter_models.composition import Parallel
from adapter_runtime.errors import UnsupportedMethodError
from runtime_models import randomise

T5 = {
    "vocab_size": 60,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART = {"vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 40}
HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
TOKENS = torch.tensor([[7, 8, 9, 1], [5, 6, 1, 0]])
LABELS = torch.tensor([[4, 5, 1], [6, 1, -100]])


def t5(cls: type[PreTrainedModel] = T5ForConditionalGeneration, **options: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    model = cls(T5Config(**T5, **options)).eval()
    init(model)
    return model


def with_adapter(model: PreTrainedModel, config: str = "seq_bn") -> PreTrainedModel:
    model.add_adapter("a", config=config, set_active=True)
    randomise(model, "a")
    return model


def test_an_adapter_goes_from_a_class_with_its_own_layers_to_the_adapter_model_and_back(tmp_path: Path) -> None:
    model = with_adapter(t5())
    model.save_adapter(tmp_path / "adapter", "a")
    model.save_pretrained(tmp_path / "model")
    flexible = AutoAdapterModel.from_pretrained(tmp_path / "model").eval()
    flexible.load_adapter(tmp_path / "adapter", set_active=True)
    inputs = {"input_ids": TOKENS, "decoder_input_ids": LABELS.clamp(min=0)}
    expected = model(**inputs).logits
    torch.testing.assert_close(flexible(**inputs).logits, expected)
    flexible.save_adapter(tmp_path / "again", "a")
    other = t5()
    other.load_state_dict({k: v for k, v in model.state_dict().items() if ".a." not in k})
    other.load_adapter(tmp_path / "again", set_active=True)
    assert torch.equal(other(**inputs).logits, expected)


@pytest.mark.parametrize("tied", [True, False])
def test_the_projection_to_the_vocabulary_is_frozen(tied: bool) -> None:
    model = with_adapter(t5(tie_word_embeddings=tied))
    model.train_adapter("a")
    assert [key for key, one in model.named_parameters() if one.requires_grad and ".a." not in key] == []
    model.train_adapter("a", train_embeddings=True)
    assert model.lm_head.weight.requires_grad and model.shared.weight.requires_grad


def test_another_head_goes_on_being_trained_and_is_saved_beside_the_adapter(tmp_path: Path) -> None:
    model = with_adapter(t5(T5ForQuestionAnswering))
    model.train_adapter("a")
    trained = {key for key, one in model.named_parameters() if one.requires_grad and ".a." not in key}
    assert trained == {"qa_outputs.weight", "qa_outputs.bias"}
    model.save_adapter(tmp_path, "a", with_head=True)
    other = t5(T5ForQuestionAnswering)
    torch.nn.init.zeros_(other.qa_outputs.weight)
    other.load_adapter(tmp_path, with_head=True, set_active=True)
    assert torch.equal(other.qa_outputs.weight, model.qa_outputs.weight)
    assert "qa_outputs" in model.adapter_summary()


def test_generation_gives_one_answer_per_adapter_of_parallel() -> None:
    model = with_adapter(t5())
    model.add_adapter("b", config="lora")
    randomise(model, "b", seed=2)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    alone = []
    for name in ("a", "b"):
        model.set_active_adapters(name)
        alone.append(model.generate(TOKENS, **settings))
    model.active_adapters = Parallel("a", "b")
    assert torch.equal(model.generate(TOKENS, **settings), torch.cat(alone))


def test_an_encoder_alone_is_the_base_model_of_its_heads() -> None:
    model = with_adapter(t5(T5ForTokenClassification), "seq_bn_inv|prompt_tuning")
    assert type(model.adapters_base).__name__ == "T5EncoderModel"
    assert len(list(model.iter_layers())) == 2
    assert model(input_ids=TOKENS).logits.shape == (*TOKENS.shape, model.config.num_labels)


def test_a_wrapped_decoder_takes_adapters_of_the_whole_model(tmp_path: Path) -> None:
    config = BartConfig(**BART, **HEADS)
    torch.manual_seed(0)
    whole = BartModel(config)
    init(whole)
    with_adapter(whole, "lora").save_adapter(tmp_path, "a")
    decoder = BartForCausalLM(config).eval()
    init(decoder)
    assert type(decoder.adapters_base).__name__ == "BartDecoderWrapper"
    with pytest.raises(UnsupportedMethodError, match="BartDecoderWrapper does not support prompt_tuning"):
        decoder.add_adapter("p", config="prompt_tuning")
    assert not decoder.supports_adapter("prompt_tuning") and decoder.supports_adapter("lora")
    decoder.add_adapter("a", config="lora", set_active=True)
    assert set(decoder.get_adapter("a")) == {0, 1}
