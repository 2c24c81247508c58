"""Where a prompt stands: behind padding where layers count columns, at the positions that upstream counts, and what goes on without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from transformers import (
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MistralForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedConfig,
    Qwen2Config,
    SiglipVisionConfig,
    T5GemmaConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from adapter_runtime import Parallel, init
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.insertion import Insertion
from adapter_runtime.methods.prompt_tuning.windows import counts_columns
from composite_models import BERT, IMAGE, VIT, pixels
from conformance.instances import read
from runtime_models import randomise

PROMPT = "prompt_tuning[prompt_length=3]"
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "vocab_size": 60, "pad_token_id": 0, "eos_token_id": 59,
}  # fmt: skip
LAYERS = ["sliding_attention", "full_attention"]


def prompted(model: Any, *names: str, config: str = PROMPT) -> Any:
    init(model.eval())
    for seed, name in enumerate(names or ("a",), start=1):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    model.set_active_adapters(Parallel(*names) if len(names) > 1 else names[0] if names else "a")
    return model


def with_window(kind: str, size: int) -> Any:
    torch.manual_seed(0)
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**TEXT, sliding_window=size))
    return Gemma3ForCausalLM(Gemma3TextConfig(**TEXT, sliding_window=size, layer_types=LAYERS))


TOKENS = torch.tensor([[0, 0, 0, 0, 0, 5, 9, 8, 7], [4, 3, 12, 11, 6, 5, 9, 8, 2]])
MASK = (TOKENS > 0).long()


@pytest.mark.parametrize(
    ("positions", "starts"),
    [
        pytest.param([[0, 1, 2, 3], [0, 1, 2, 3]], [0, 0], id="columns"),
        pytest.param([[1, 2, 3, 4], [0, 0, 1, 2]], [1, 1], id="from 1, and padding has some other (PaliGemma)"),
        pytest.param([[0, 1, 2, 3], [1, 1, 0, 1]], [0, 0], id="from 0, and padding has 1"),
    ],
)
def test_a_prompt_begins_where_tokens_do(positions: list[list[int]], starts: list[int]) -> None:
    insertion = Insertion(2, 0, leads=True, first=torch.tensor([0, 2]))
    found = insertion.into_positions(torch.tensor(positions)).tolist()
    rows = zip(positions, starts, strict=True)
    assert found == [[start, start + 1, *(position + 2 for position in row)] for row, start in rows]


# A window


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("window", [6, 64])
@pytest.mark.parametrize("kind", ["mistral", "gemma3"])
def test_padding_does_not_push_a_prompt_out_of_a_window(kind: str, window: int, combine: str) -> None:
    model = prompted(with_window(kind, window), config=f"prompt_tuning[prompt_length=3,combine='{combine}']")
    positions = (MASK.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(TOKENS, attention_mask=MASK, position_ids=positions, labels=TOKENS).logits
        alone = model(TOKENS[:1, 5:], attention_mask=MASK[:1, 5:]).logits
        other = model(TOKENS[1:]).logits
    assert padded.shape[:2] == TOKENS.shape
    assert_close(padded[:1, 5:], alone, rtol=1e-4, atol=1e-5)
    assert_close(padded[1:], other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cache", ["dynamic", "static", None])
def test_a_row_with_padding_generates_what_it_does_alone_in_a_window(cache: str | None) -> None:
    model = prompted(with_window("gemma3", 6))
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    options |= {"use_cache": False} if cache is None else {"cache_implementation": cache}
    together = model.generate(TOKENS, attention_mask=MASK, **options)
    assert together[0, 9:].tolist() == model.generate(TOKENS[:1, 5:], **options)[0, 4:].tolist()
    assert together[1].tolist() == model.generate(TOKENS[1:], **options)[0].tolist()


def test_prompts_of_parallel_adapters_stand_behind_the_padding_too() -> None:
    model = prompted(with_window("gemma3", 6), "a", "b")
    given = {"input_ids": TOKENS, "attention_mask": MASK}
    with torch.no_grad():
        both = model(**given).logits
        for name, ours in zip("ab", both.chunk(2), strict=True):
            model.set_active_adapters(name)
            assert_close(ours, model(**given).logits, rtol=1e-4, atol=1e-5)


def test_a_chunk_that_is_padding_in_some_row_is_refused_where_the_prompt_stands_behind_padding() -> None:
    model = prompted(with_window("gemma3", 6))
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    with pytest.raises(UnsupportedMethodError, match="the first 4 of some row are padding"):
        model.generate(TOKENS, attention_mask=MASK, **options, prefill_chunk_size=4)
    in_one = model.generate(TOKENS, attention_mask=MASK, **options)
    assert torch.equal(model.generate(TOKENS, attention_mask=MASK, **options, prefill_chunk_size=6), in_one)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(MistralConfig(), True, id="a window in all layers"),
        pytest.param(MistralConfig(sliding_window=None), False, id="a window that is switched off"),
        pytest.param(Qwen2Config(use_sliding_window=False), False, id="a window that is not used"),
        pytest.param(Gemma3TextConfig(sliding_window=6, layer_types=LAYERS, num_hidden_layers=2), True, id="in a layer"),
        pytest.param(T5GemmaConfig(), True, id="a window in a config of a config"),
        pytest.param(MambaConfig(), True, id="states that fade"),
        pytest.param(LlamaConfig(), False, id="attention to all"),
        pytest.param(BertConfig(chunk_size_feed_forward=4), False, id="chunks of a feed-forward, in which no token sees another"),
    ],
)  # fmt: skip
def test_layers_count_columns_where_the_config_states_a_window_or_a_state(
    config: PreTrainedConfig, expected: bool
) -> None:
    assert counts_columns(config) is expected


# Positions


@pytest.mark.parametrize("start", [0, 1, 7])
@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("at", [1, 2, torch.tensor([1, 3])])
def test_a_prompt_is_counted_from_where_the_tokens_are(start: int, leads: bool, at: int | torch.Tensor) -> None:
    positions = torch.tensor([[1, start, start + 1, start + 2, start + 3]])
    if isinstance(at, torch.Tensor):
        positions = (
            torch.cat([positions, torch.tensor([[1, 1, 1, start, start + 1]])]) if leads else positions.expand(2, -1)
        )
    places = [at] if isinstance(at, int) else at.tolist()
    moved = Insertion(2, at, leads).into_positions(positions)
    for row, place in enumerate(places):
        given = positions[row].tolist()
        begin = given[place] if leads else given[place - 1] + 1
        expected = [*given[:place], begin, begin + 1, *(one + 2 for one in given[place:])]
        assert moved[row].tolist() == expected


def test_a_prompt_in_front_of_all_begins_where_the_tokens_do() -> None:
    assert Insertion(2).into_positions(torch.tensor([[1, 2, 3]])).tolist() == [[1, 2, 3, 4, 5]]


def paligemma() -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    vision = SiglipVisionConfig(**VIT, projection_dim=32)
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=GemmaConfig(**TEXT),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    tokens = torch.tensor([[IMAGE] * 4 + [2, 5, 9], [IMAGE] * 4 + [2, 8, 3]])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": pixels(2)}
    return PaliGemmaForConditionalGeneration(config), {**inputs, "token_type_ids": torch.zeros_like(tokens)}


def test_positions_that_begin_at_one_do_so_with_a_prompt_in_all_ways_to_run_it() -> None:
    model, inputs = paligemma()
    prompted(model)
    options: dict[str, Any] = {
        "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True,
        "suppress_tokens": [IMAGE],
    }  # fmt: skip
    with_cache, without = (model.generate(**inputs, **options, use_cache=use) for use in (True, False))
    for one, two in zip(with_cache.logits, without.logits, strict=True):
        assert_close(one, two, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_close(with_cache.logits[0], model(**inputs).logits[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("insert_at", ["embedding_output", "token_embeddings"])
def test_targets_that_a_class_hands_down_to_its_root_grow_with_the_prompt_and_count_nothing(insert_at: str) -> None:
    """Gemma 3's class with a head, whose loss is that of real tokens; its root reads none."""
    known = read("gemma3")
    torch.manual_seed(0)
    model = prompted(
        Gemma3ForConditionalGeneration(known.config()),
        config=f"prompt_tuning[prompt_length=3,insert_at={insert_at!r}]",
    )
    inputs, targets = known.inputs(), known.inputs()["input_ids"]
    logits = model(**inputs).logits
    outputs = model(**inputs, labels=targets)
    assert_close(outputs.logits, logits)
    upstream = functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())
    assert_close(outputs.loss, upstream)
    outputs.loss.backward()
    assert all(bool(parameter.grad.abs().sum()) for _, parameter in model.adapter_parameters("a"))


# What goes on without the prompt


def of_text() -> tuple[Any, dict[str, torch.Tensor]]:
    decoder = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, is_decoder=True, add_cross_attention=True)
    encoder = BertConfig(**BERT | {"hidden_size": 32})
    config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    tokens = torch.tensor([[1, 7, 11, 12], [2, 8, 3, 4]])
    return EncoderDecoderModel(config), {"input_ids": tokens, "decoder_input_ids": tokens}


def of_images() -> tuple[Any, dict[str, torch.Tensor]]:
    decoder = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, is_decoder=True, add_cross_attention=True)
    encoder = ViTConfig(**VIT | {"hidden_size": 32})  # as wide as the decoder: no projection stands between them
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return VisionEncoderDecoderModel(config), {
        "pixel_values": pixels(2),
        "decoder_input_ids": torch.tensor([[1, 7], [2, 8]]),
    }


@pytest.mark.parametrize("made", [of_text, of_images])
def test_a_decoder_that_views_states_reads_those_of_an_encoder_with_a_prompt(made: Any) -> None:
    torch.manual_seed(0)
    model, inputs = made()
    prompted(model, config="prompt_tuning[prompt_length=3,parts='encoder']")
    with torch.no_grad():
        ours = model(**inputs).logits
        states = model.encoder(next(iter(inputs.values()))).last_hidden_state
        assert states.shape[1] == (4 if made is of_text else 5)
        model.set_active_adapters(None)
        decoder = model.decoder(inputs["decoder_input_ids"], encoder_hidden_states=states.contiguous())
    assert_close(ours, decoder.logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(**inputs).logits, ours, atol=1e-5)
