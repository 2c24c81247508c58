"""Tiny configurations: what is shrunk, and what must not be."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, GPT2Config, LlamaConfig

from conformance.subjects import method_subjects
from conformance.tiny import MOST_ENTRIES, VOCAB_SIZE, entries, randomise, tiny_config


def test_fewer_key_heads_where_upstream_means_as_many_as_heads() -> None:
    assert LlamaConfig().num_key_value_heads == LlamaConfig().num_attention_heads
    assert tiny_config("llama").num_key_value_heads < tiny_config("llama").num_attention_heads


def test_dropout_is_switched_on_where_upstream_has_it_off() -> None:
    assert LlamaConfig().attention_dropout == 0
    assert tiny_config("llama").attention_dropout > 0


def test_special_tokens_stand_within_the_vocabulary() -> None:
    assert GPT2Config().eos_token_id > VOCAB_SIZE
    assert tiny_config("gpt2").eos_token_id < tiny_config("gpt2").vocab_size


def test_changes_win_over_shrunk_fields() -> None:
    assert tiny_config("llama", hidden_size=64, num_hidden_layers=3).num_hidden_layers == 3


def test_entries_have_a_reason() -> None:
    assert all(entry["reason"] for entry in entries().values())
    assert len(entries()) <= MOST_ENTRIES


@pytest.mark.parametrize(
    "model_type", ["bert", "llama", "gpt2", "t5", "bart", "vit", "whisper", "gemma2", "mistral", "clip", "deepseek_v3"]
)
def test_model_is_tiny(model_type: str) -> None:
    """Decoders, encoders, encoder-decoders, vision, audio, two towers, latent attention: built without an entry."""
    assert model_type not in entries()
    with torch.device("meta"):
        model = AutoModel.from_config(tiny_config(model_type))
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000


def test_random_weights_are_repeatable_and_leave_no_zero_bias() -> None:
    models = [AutoModel.from_config(GPT2Config(n_embd=32, n_head=4, n_layer=1, vocab_size=20)) for _ in range(2)]
    for model in models:
        randomise(model)
    pairs = list(zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    assert all(bool((one != 0).all()) for one, _ in pairs)


def test_sines_and_cosines_of_positions_stay_what_they_are() -> None:
    model = AutoModel.from_config(tiny_config("roformer"))
    table, words = model.encoder.embed_positions.weight, model.embeddings.word_embeddings.weight
    before = table.clone(), words.detach().clone()
    randomise(model)
    assert torch.equal(table, before[0]) and not torch.equal(words, before[1])


@pytest.mark.parametrize(
    ("model_type", "labels"),
    [
        ("bert", ["encoder", "decoder", "cross"]),
        ("llama", ["decoder"]),
        ("t5", ["encoder-decoder"]),
        ("vit", ["encoder"]),
    ],
)
def test_subjects_follow_the_ways_in_which_a_model_is_used(model_type: str, labels: list[str]) -> None:
    assert [subject.label for subject in method_subjects(model_type)] == labels
