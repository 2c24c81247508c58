"""Heads on what the encoder of a text-to-text model gives: the decoder runs, and is not read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import T5Config, T5ForTokenClassification

from adapter_models import AutoAdapterModel, T5AdapterModel
from adapter_runtime import Parallel
from conformance.heads import head_is_saved_with_adapter, head_types, head_works, heads_run_together, model_is_saved

SIZES = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "num_labels": 3}
WORDS = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
MASK = (WORDS != 0).long()
LABELS = torch.tensor([[0, 1, 2, 1], [1, 2, -100, -100]])


def tagger(folder: Path) -> tuple[T5ForTokenClassification, T5AdapterModel]:
    upstream = T5ForTokenClassification(T5Config(**SIZES)).eval()
    upstream.save_pretrained(folder)
    return upstream, AutoAdapterModel.from_pretrained(folder).eval()


def test_a_tagger_on_the_encoder_computes_what_upstreams_does(tmp_path: Path) -> None:
    upstream, flexible = tagger(tmp_path)
    assert list(flexible.heads) == ["default"]
    assert flexible.config.is_encoder_decoder, "the file of an encoder alone says that there is no decoder"
    call = {"attention_mask": MASK, "labels": LABELS}
    for inputs in ({"input_ids": WORDS}, {"inputs_embeds": upstream.get_input_embeddings()(WORDS)}):
        ours, theirs = flexible(**inputs, **call), upstream(**inputs, **call)
        assert_close(ours.logits, theirs.logits)
        assert_close(ours.loss, theirs.loss)
    assert type(flexible.to_static()) is T5ForTokenClassification


@pytest.mark.parametrize("check", [head_works, model_is_saved, head_is_saved_with_adapter])
def test_heads_on_encoders_are_trained_and_saved(check: object) -> None:
    assert "tagging" in head_types("t5")
    check("t5", "tagging")  # type: ignore[operator]


def test_heads_on_both_run_together() -> None:
    heads_run_together("t5")


@pytest.mark.parametrize(("combine", "padding"), [("prefix", 0), ("prefix_after_bos", 0), ("prefix_after_bos", 2)])
def test_a_prompt_of_the_encoder_is_not_tagged(combine: str, padding: int, tmp_path: Path) -> None:
    """Padded on the right, or in front, where the prompt stands behind it."""
    _, model = tagger(tmp_path)
    model.add_adapter("a", config=f"prompt_tuning[prompt_length=3,combine='{combine}']")
    model.add_adapter("b", config=f"prompt_tuning[prompt_length=3,combine='{combine}']")
    model.set_active_adapters("a")
    model.active_head = "default"
    plain = model(input_ids=WORDS[1:, :2], labels=LABELS[1:, :2])
    assert plain.logits.shape == (1, 2, 3)
    padded = {"input_ids": WORDS[1:].roll(padding, 1), "attention_mask": MASK[1:].roll(padding, 1)}
    real = slice(padding, padding + 2)
    assert_close(model(**padded).logits[:, real], plain.logits)
    model.set_active_adapters(Parallel("a", "b"))
    model.active_head = "default"
    assert_close(model(**padded)[0].logits[:, real], plain.logits)
