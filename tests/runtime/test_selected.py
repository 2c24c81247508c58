"""Projections that get some positions only, those of all rows in one: how many belong to which row does not show there (Higgs Audio)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import HiggsAudioV2ForConditionalGeneration, PreTrainedModel

from adapter_runtime import BatchSplit, LoRAConfig, Parallel, init
from adapter_runtime.errors import UnsupportedMethodError
from conformance.tiny import tiny_config
from runtime_models import randomise

IN_PART = LoRAConfig(r=2, selfattn_lora=False, intermediate_lora=True, output_lora=True)
EVERYWHERE = LoRAConfig(r=2, attn_matrices=["q", "k", "v"])


def adapted(config: LoRAConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = HiggsAudioV2ForConditionalGeneration(tiny_config("higgs_audio_v2")).eval()
    init(model)
    for seed, name in enumerate("ab"):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


def sounds(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two rows of six positions, of which the first has four of a sound, and the second two."""
    config, generator = model.config, torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (2, 6), generator=generator)
    ids[0, 1:5] = ids[1, 1:3] = config.audio_token_id
    codes = torch.randint(0, config.codebook_size - 2, (2, 4, config.num_codebooks), generator=generator)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    return {
        "input_ids": ids,
        "audio_input_ids": codes,
        "audio_input_ids_mask": mask,
        "attention_mask": torch.ones_like(ids),
    }


def run(model: PreTrainedModel, given: dict[str, torch.Tensor], setup: Any) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        logits: torch.Tensor = model(**given).logits
    return logits


def test_rows_are_given_to_no_adapters_there() -> None:
    model = adapted(IN_PART)
    with pytest.raises(UnsupportedMethodError, match="gets the positions of all rows in one"):
        run(model, sounds(model), BatchSplit("a", "b", batch_sizes=[1, 1]))


@pytest.mark.parametrize("has_sounds", [True, False])
def test_copies_of_a_batch_are(has_sounds: bool) -> None:
    """Also where one of the projections gets no position at all."""
    model = adapted(IN_PART)
    given = sounds(model) if has_sounds else {"input_ids": torch.arange(3, 15).reshape(2, 6)}
    one, two = (run(model, given, name) for name in "ab")
    assert not torch.allclose(one, two)
    assert_close(run(model, given, Parallel("a", "b")), torch.cat([one, two]))


def test_rows_are_given_to_adapters_of_projections_that_get_all_positions() -> None:
    model = adapted(EVERYWHERE)
    given = sounds(model)
    one, two = (run(model, given, name) for name in "ab")
    assert not torch.allclose(one[0], two[0]) and not torch.allclose(one[1], two[1])
    assert_close(run(model, given, BatchSplit("a", "b", batch_sizes=[1, 1])), torch.stack([one[0], two[1]]))


def test_a_gate_is_refused_there() -> None:
    model = adapted(EVERYWHERE)
    gated = IN_PART.replace(use_gating=True)
    assert not model.supports_adapter(gated) and model.supports_adapter(EVERYWHERE.replace(use_gating=True))
    with pytest.raises(
        UnsupportedMethodError, match=r"up_proj of layer 0 gets some positions only.*intermediate_lora=False"
    ):
        model.add_adapter("gated", gated)
