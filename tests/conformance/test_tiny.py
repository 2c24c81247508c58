"""Tiny configurations: what is shrunk, and what must not be."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, GPT2Config, LlamaConfig

from conformance.subjects import method_subjects
from conformance.tiny import HEADS, KEY_HEADS, entries, randomise, shrunk, tiny_config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("initializer_range", 0.02, id="a float that is no dropout stays"),
        pytest.param("hidden_act", "silu", id="a name stays"),
        pytest.param("tie_word_embeddings", True, id="a switch stays, though bool is an int"),
        pytest.param("num_labels", 2, id="a number that is no size of the model stays"),
        pytest.param("num_hidden_layers", 1, id="a size that is small already stays"),
        pytest.param("pad_token_id", 3, id="a token within the vocabulary stays"),
        pytest.param("rotary_pct", 0.25, id="a fraction stays"),
    ],
)
def test_field_is_kept(name: str, value: object) -> None:
    assert shrunk(name, value) == value


@pytest.mark.parametrize(
    ("name", "value", "small"),
    [
        ("hidden_size", 4096, 32),
        ("d_model", 512, 32),
        ("num_attention_heads", 32, HEADS),
        ("encoder_attention_heads", 12, HEADS),
        ("num_key_value_heads", 8, KEY_HEADS),
        ("num_hidden_layers", 32, 2),
        ("decoder_layers", 12, 2),
        ("vocab_size", 128256, 99),
        ("attention_probs_dropout_prob", 0.0, 0.1),
    ],
)
def test_field_is_shrunk(name: str, value: object, small: object) -> None:
    assert shrunk(name, value) == small


def test_special_token_moves_into_the_vocabulary() -> None:
    assert 0 <= shrunk("eos_token_id", 50256) < 99


def test_fewer_key_heads_where_upstream_means_as_many_as_heads() -> None:
    assert LlamaConfig().num_key_value_heads == 32
    assert tiny_config("llama").num_key_value_heads == KEY_HEADS


def test_changes_win_over_shrunk_fields() -> None:
    assert tiny_config("llama", hidden_size=64, num_hidden_layers=3).num_hidden_layers == 3


def test_entries_have_a_reason() -> None:
    assert all(entry["reason"] for entry in entries().values())


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
