"""An encoder-decoder in a model that calls its encoder and its decoder by themselves, past its forward: adapters act as in that forward."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    Blip2Config,
    Blip2Model,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5Model,
)

from adapter_runtime import BatchSplit, Parallel, init
from adapter_runtime.call.context import thread
from adapter_runtime.errors import UnsupportedMethodError
from runtime_models import randomise

METHODS = (
    "prompt_tuning",
    "prompt_tuning[combine='prefix_after_bos']",
    "seq_bn_inv[reduction_factor=2]",
    "loreft",
    "mam",
)
BERT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip
SIZES = {"d_model": 32, "vocab_size": 100, "decoder_start_token_id": 2}
KINDS: dict[str, Any] = {
    "bart": (
        BartModel,
        BartConfig(
            **SIZES, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
            encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=40,
        ),
    ),
    "t5": (T5Model, T5Config(**SIZES, d_ff=48, d_kv=8, num_layers=2, num_heads=4)),
}  # fmt: skip


class PastHalves(PreTrainedModel):
    """A whole that changes embeddings, and goes on with the encoder and the decoder of its part, as Florence-2 does."""

    config_class = BartConfig
    _supports_sdpa = True

    def __init__(self, part: PreTrainedModel) -> None:
        super().__init__(part.config)
        self.part, self.beside = part, BertModel(BertConfig(**BERT))
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.part.get_input_embeddings()

    def embedded(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        beside: torch.Tensor = self.beside(input_ids, attention_mask).last_hidden_state
        return self.get_input_embeddings()(input_ids) + beside

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        embeddings = self.embedded(input_ids, attention_mask)
        encoded = self.part.encoder(attention_mask=attention_mask, inputs_embeds=embeddings)[0]
        states = self.part.decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
        ).last_hidden_state
        return (states,)


def inputs() -> dict[str, torch.Tensor]:
    tokens = torch.tensor([[3, 7, 11, 12, 5, 6], [2, 8, 3, 4, 1, 1]])
    read = torch.tensor([[2, 9, 4, 5], [2, 8, 1, 1]])
    return {
        "input_ids": tokens,
        "attention_mask": (tokens != 1).long(),
        "decoder_input_ids": read,
        "decoder_attention_mask": (read != 1).long(),
    }


def past_halves(kind: str, **methods: str) -> PastHalves:
    torch.manual_seed(0)
    upstream, config = KINDS[kind]
    model = PastHalves(upstream(config)).eval()
    init(model)
    for seed, (name, method) in enumerate(methods.items()):
        model.add_adapter(name, method)
        randomise(model, name, seed)
    return model


def states(model: torch.nn.Module, given: Mapping[str, torch.Tensor | None]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**given)[0]
    assert thread.context is None
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_acts_in_a_part_acts_in_its_halves(kind: str, method: str) -> None:
    model, given = past_halves(kind, a=method), inputs()
    expected = states(model, given)
    model.set_active_adapters("a")
    adapted = states(model, given)
    assert not torch.allclose(adapted, expected)
    embeddings = {"inputs_embeds": model.embedded(given["input_ids"], given["attention_mask"]), "input_ids": None}
    assert torch.equal(adapted, states(model.part, {**given, **embeddings}))  # by its forward
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(states(copied, given), adapted)
    for row, (read, written) in enumerate(zip(given["attention_mask"], given["decoder_attention_mask"], strict=True)):
        alone = {
            "input_ids": given["input_ids"][row : row + 1, : read.sum()],
            "decoder_input_ids": given["decoder_input_ids"][row : row + 1, : written.sum()],
        }
        assert torch.allclose(states(model, alone)[0], adapted[row, : written.sum()], atol=1e-5)
    model.delete_adapter("a")
    assert torch.equal(states(model, given), expected)


@pytest.mark.parametrize("method", METHODS)
def test_parallel_adapters_in_halves_give_what_each_gives(method: str) -> None:
    model, given = past_halves("bart", a=method, b=method), inputs()
    each = []
    for name in ("a", "b"):
        model.set_active_adapters(name)
        each.append(states(model, given))
    model.set_active_adapters(Parallel("a", "b"))
    assert torch.allclose(states(model, given), torch.cat(each), atol=1e-6)
    if "prompt" not in method:
        model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[1, 1]))
        assert torch.allclose(states(model, given), torch.stack([each[0][0], each[1][1]]), atol=1e-6)


def test_an_error_in_a_half_leaves_no_context_behind() -> None:
    model, given = past_halves("bart", a="loreft"), inputs()
    model.set_active_adapters("a")
    for wrong in ({"input_ids": given["input_ids"] + 1000}, {"attention_mask": given["attention_mask"][0, 0]}):
        with pytest.raises((IndexError, UnsupportedMethodError)):
            model(**given | wrong)
        assert thread.context is None


def test_a_half_that_is_called_by_itself_is_told_the_mask() -> None:
    """As upstream's `generate` does it."""
    model, given = past_halves("bart", a="loreft"), inputs()
    model.set_active_adapters("a")
    mask = given["attention_mask"]
    with torch.no_grad():
        whole = model.part.encoder(given["input_ids"], mask)[0]
        alone = model.part.encoder(given["input_ids"][1:, :4])[0]
    assert torch.allclose(whole[1, :4], alone[0], atol=1e-6)
    assert thread.context is None


@pytest.mark.parametrize("method", METHODS)
def test_features_of_a_text_are_those_of_the_encoder_with_the_adapter(method: str) -> None:
    """BLIP-2 takes these past the T5 in it. What a prompt adds comes first."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Blip2Config(
        text_config=KINDS["t5"][1].to_dict(),
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        qformer_config={**sizes, "encoder_hidden_size": 32},
        num_query_tokens=4,
        image_token_index=99,
    )
    torch.manual_seed(0)
    model = Blip2Model(config).eval()
    init(model)
    model.add_adapter("a", method)
    randomise(model, "a", 1)
    given = {name: inputs()[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        plain = model.get_text_features(**given).last_hidden_state
        model.set_active_adapters("a")
        whole = model.get_text_features(**given).last_hidden_state
        alone = model.get_text_features(given["input_ids"][1:, :4]).last_hidden_state
    added = whole.shape[1] - plain.shape[1]
    assert (added > 0) is ("prompt" in method)
    assert not torch.allclose(whole[:, added:], plain)
    assert torch.allclose(whole[1, : 4 + added], alone[0], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_whose_config_does_not_say_that_a_part_has_an_encoder_runs_it_with_adapters(method: str) -> None:
    """InstructBLIP calls the forward of its T5. No position is reserved for a prompt, which the encoder puts in itself."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = InstructBlipConfig(
        text_config={**KINDS["t5"][1].to_dict(), "pad_token_id": 1, "eos_token_id": 99},
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        qformer_config={**sizes, "encoder_hidden_size": 32, "vocab_size": 100},
        num_query_tokens=2,
        image_token_index=98,
    )
    assert not config.is_encoder_decoder
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config).eval()
    init(model)
    model.add_adapter("a", method)
    randomise(model, "a", 1)
    tokens, asked = torch.tensor([[98, 98, 5, 6, 7], [98, 98, 8, 9, 1]]), torch.tensor([[3, 4, 5], [6, 7, 8]])
    given = {
        "input_ids": tokens,
        "attention_mask": (tokens != 1).long(),
        "qformer_input_ids": asked,
        "qformer_attention_mask": torch.ones_like(asked),
        "pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    }
    read = {**given, "decoder_input_ids": torch.tensor([[2, 9, 4], [2, 8, 5]])}
    alone = {name: value[1:] for name, value in read.items()}
    alone |= {"input_ids": tokens[1:, :4], "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        plain = model(**read).logits
        model.set_active_adapters("a")
        adapted = model(**read).logits
        assert adapted.shape == plain.shape and not torch.allclose(adapted, plain)
        assert torch.allclose(model(**alone).logits, adapted[1:], atol=1e-5)
        written = [
            model.generate(**given, max_new_tokens=4, do_sample=False, use_cache=cache) for cache in (True, False)
        ]
    assert torch.equal(*written)
