"""Prompt tuning against upstream that is given the prompt by hand, and what heads, masks, positions and caches see of it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.testing import assert_close
from transformers import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    StaticCache,
)

import adapter_models
from adapter_models import Average, BatchSplit, Fuse, MultiTask, Parallel, Split, Stack
from adapter_runtime import init
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.api import _mask_of_tokens
from adapter_runtime.methods.prompt_tuning.beside import with_prompt
from adapter_runtime.methods.prompt_tuning.call import PromptCall, PromptSites, _without_prompt
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.prompt_tuning.insertion import Insertion
from runtime_models import CLASSES, adapted, randomise, upstream

P = 4
PROMPT = f"prompt_tuning[prompt_length={P}]"
AFTER_BOS = f"prompt_tuning[prompt_length={P},combine='prefix_after_bos']"
BY_COMBINE = {"prefix": PROMPT, "prefix_after_bos": AFTER_BOS}
Inputs = dict[str, torch.Tensor]


def prompted(kind: str, attention: str = "eager", config: str = PROMPT, **names: str) -> Any:
    """A model with the prompt "p" active, and further adapters by name."""
    model = adapted(kind, attention)
    for seed, (name, each) in enumerate({"p": config, **names}.items(), start=1):
        model.add_adapter(name, each)
        randomise(model, name, seed)
    model.set_active_adapters("p")
    return model


def prompt_of(model: Any, name: str = "p") -> torch.Tensor:
    weight: torch.Tensor = model.adapters_base.prompt_tuning.prompt_tunings[name].prompt_embedding.weight
    return weight


def mask_of(padding: str) -> torch.Tensor | None:
    mask = torch.ones(2, 7, dtype=torch.long)
    if padding == "none":
        return None
    mask[1, slice(0, 3) if padding == "left" else slice(4, 7)] = 0
    return mask


def by_hand(tokens: torch.Tensor, prompt: torch.Tensor, combine: str, mask: torch.Tensor | None) -> torch.Tensor:
    """[B, L, ...] with the prompt [P, ...] in each row: the rule of the config, row by row."""
    rows = []
    for index, row in enumerate(tokens):
        real = mask[index].tolist().index(1) if mask is not None else 0
        at = 0 if combine == "prefix" else real + 1
        rows.append(torch.cat([row[:at], prompt, row[at:]]))
    return torch.stack(rows)


def without_prompt(states: torch.Tensor, combine: str, mask: torch.Tensor | None) -> torch.Tensor:
    marked = by_hand(torch.ones(states.shape[0], states.shape[1] - P), torch.zeros(P), combine, mask).bool()
    return states[marked].view(states.shape[0], -1, states.shape[-1])


def expected_of(
    model: Any, kind: str, attention: str, ids: torch.Tensor, mask: torch.Tensor | None, combine: str
) -> Any:
    """Last hidden state of upstream's base model with the prompt of `model` put in by hand."""
    reference = upstream(kind, attention)
    base = reference.base_model
    prompt = prompt_of(model)
    grown = None if mask is None else by_hand(mask, torch.ones(P, dtype=mask.dtype), combine, mask)
    if base.config.model_type == "bert":
        base.embeddings.register_forward_hook(lambda module, args, output: by_hand(output, prompt, combine, mask))
        # The embeddings do not read the mask, so upstream takes a longer one.
        return base(ids, attention_mask=grown).last_hidden_state
    embeddings = by_hand(base.embed_tokens(ids), prompt, combine, mask)
    return base(inputs_embeds=embeddings, attention_mask=grown).last_hidden_state


# A prompt is what upstream computes with it in place


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "llama", "bert_decoder"])
def test_a_prompt_is_put_in_front_of_the_tokens(
    kind: str, attention: str, padding: str, combine: str, inputs: Inputs
) -> None:
    model = prompted(kind, attention, BY_COMBINE[combine])
    ids, mask = inputs["input_ids"], mask_of(padding)
    with torch.no_grad():
        given_states = model(ids, attention_mask=mask).last_hidden_state
        expected = expected_of(model, kind, attention, ids, mask, combine)
    assert given_states.shape == (2, 7 + P, 32)
    real = torch.ones(2, 7 + P) if mask is None else by_hand(mask, torch.ones(P, dtype=torch.long), combine, mask)
    assert_close(given_states[real.bool()], expected[real.bool()], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_embeddings_may_be_given_in_place_of_tokens(kind: str, inputs: Inputs) -> None:
    model = prompted(kind)
    expected = model(**inputs).last_hidden_state
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    given_states = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"]).last_hidden_state
    assert_close(given_states, expected)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
def test_positions_of_the_caller_are_those_of_the_tokens(kind: str, combine: str, inputs: Inputs) -> None:
    model = prompted(kind, config=BY_COMBINE[combine])
    expected = model(**inputs).last_hidden_state
    given_states = model(**inputs, position_ids=torch.arange(7)[None].expand(2, -1)).last_hidden_state
    assert_close(given_states, expected)
    assert_close(model(**inputs, position_ids=torch.arange(7)[None]).last_hidden_state, expected)
    other = model(**inputs, position_ids=torch.arange(7, 0, -1)[None]).last_hidden_state
    assert not torch.allclose(other, expected, atol=1e-3)


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
def test_positions_of_the_caller_are_those_of_the_tokens_after_a_cache_too(combine: str, inputs: Inputs) -> None:
    model, ids, positions = prompted("llama", config=BY_COMBINE[combine]), inputs["input_ids"], torch.arange(7)[None]
    first = model(ids[:, :4], position_ids=positions[:, :4], use_cache=True)
    rest = model(ids[:, 4:], position_ids=positions[:, 4:], past_key_values=first.past_key_values)
    found = torch.cat([first.last_hidden_state, rest.last_hidden_state], dim=1)
    assert_close(found[:, -7:], model(ids).last_hidden_state[:, -7:], rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_insertion_is_what_lists_do(data: st.DataObject) -> None:
    length, prompt, rows = (data.draw(st.integers(1, 5)) for _ in range(3))
    places = data.draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    same = data.draw(st.none() | st.integers(0, length))
    insertion = Insertion(prompt, torch.tensor(places) if same is None else same)
    if same is not None:
        places = [same] * rows
    tokens = torch.arange(rows * length).view(rows, length)
    new = -1 - torch.arange(rows * prompt).view(rows, prompt)
    expected = [[*t[:at], *n, *t[at:]] for t, n, at in zip(tokens.tolist(), new.tolist(), places, strict=True)]
    assert insertion.into(tokens, new).tolist() == expected
    assert insertion.out_of(insertion.into(tokens, new)).tolist() == tokens.tolist()
    wide = insertion.into(tokens[..., None].expand(-1, -1, 3), new[..., None].expand(-1, -1, 3))
    assert wide.tolist() == [[[entry] * 3 for entry in row] for row in expected]


@settings(max_examples=40, deadline=None)
@given(at=st.integers(0, 4), prompt=st.integers(1, 3))
def test_positions_go_on_through_the_prompt(at: int, prompt: int) -> None:
    for insertion in (Insertion(prompt, at), *([Insertion(prompt, torch.tensor([at, at]))] if at else [])):
        assert insertion.into_positions(torch.arange(4)[None])[0].tolist() == list(range(4 + prompt))


def test_a_mask_that_the_embeddings_make_of_that_of_the_tokens_grows_and_nothing_else_does() -> None:
    call = PromptCall(lambda states: states.new_ones(len(states), 3, 1), Insertion(3, 1), 0)  # type: ignore[arg-type]
    states, mask = torch.zeros(2, 4, 8), torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]])
    assert call.grown(mask, states) is mask  # they did not read it
    call.mask_is_embedded = True
    grown = call.grown(mask, states)
    assert isinstance(grown, torch.Tensor) and grown.tolist() == [[1, 1, 1, 1, 1, 0, 1], [1] * 7]
    assert call.grown(mask[:, :3], states).shape == (2, 3)
    assert call.grown((2, 4), states) == (2, 4)


# Heads see real tokens only


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize(
    "head",
    [BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering, BertForMultipleChoice],
)
def test_static_heads_of_bert_see_real_tokens(head: Any, combine: str, inputs: Inputs) -> None:
    ids, mask = inputs["input_ids"], mask_of("right")
    torch.manual_seed(0)
    config: Any = CLASSES["bert"][1]()
    config.num_labels = 2 if head is BertForQuestionAnswering else 3
    model = head(config).eval()
    untouched = copy.deepcopy(model)
    init(model)
    model.add_adapter("p", BY_COMBINE[combine], set_active=True)
    randomise(model, "p")
    states = model.bert(ids, attention_mask=mask).last_hidden_state
    real = without_prompt(states, combine, mask)
    # What upstream's head makes of these states
    base = untouched.bert
    pooled = base.pooler(real) if base.pooler is not None else None
    untouched.bert.forward = lambda *args, **kwargs: adapter_outputs(real, pooled)
    labels: dict[str, torch.Tensor]
    if head is BertForQuestionAnswering:
        labels = {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([4, 3])}
    elif head is BertForTokenClassification:
        labels = {"labels": torch.randint(0, 3, (2, 7))}
    elif head is BertForSequenceClassification:
        labels = {"labels": torch.tensor([0, 2])}
    else:
        labels = {"labels": torch.tensor([1])}
        ids, mask = ids[None], mask[None]  # type: ignore[index]
    given_outputs = model(ids, attention_mask=mask, **labels)
    expected = untouched(ids, attention_mask=mask, **labels)
    assert_close(given_outputs.to_tuple(), expected.to_tuple(), rtol=1e-5, atol=1e-6)


def adapter_outputs(states: torch.Tensor, pooled: torch.Tensor | None) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("kind", ["bert_lm", "llama_lm"])
def test_language_models_give_logits_and_loss_of_real_tokens(kind: str, combine: str, inputs: Inputs) -> None:
    model = prompted(kind, config=BY_COMBINE[combine])
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    outputs = model(**inputs, labels=labels)
    states = without_prompt(model.base_model(**inputs).last_hidden_state, combine, mask)
    head = upstream(kind).lm_head if kind == "llama_lm" else upstream(kind).cls
    assert_close(outputs.logits, head(states), rtol=1e-5, atol=1e-6)
    logits, targets = (outputs.logits[:, :-1], labels[:, 1:]) if kind == "llama_lm" else (outputs.logits, labels)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    assert_close(outputs.loss, expected)


def test_a_static_decoder_head_pools_the_last_real_token(inputs: Inputs) -> None:
    config: Any = CLASSES["llama"][1]()
    config.num_labels = 3
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config).eval()
    init(model)
    model.add_adapter("p", PROMPT, set_active=True)
    randomise(model, "p")
    ids = inputs["input_ids"].clone()
    ids[1, 5:] = 0
    mask = (ids != 0).long()
    states = model.model(ids, attention_mask=mask).last_hidden_state
    expected = model.score(torch.stack([states[0, P + 6], states[1, P + 4]]))
    assert_close(model(ids, attention_mask=mask).logits, expected)


HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("add_classification_head", {"num_labels": 3}),
    "classification, pooler": ("add_classification_head", {"num_labels": 3, "use_pooler": True}),
    "tagging": ("add_tagging_head", {"num_labels": 3}),
    "qa": ("add_qa_head", {}),
    "masked_lm": ("add_masked_lm_head", {}),
}


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("head", HEADS)
def test_flexible_heads_see_real_tokens(head: str, combine: str, inputs: Inputs) -> None:
    torch.manual_seed(0)
    model = adapter_models.BertAdapterModel(CLASSES["bert"][1]()).eval()
    method, options = HEADS[head]
    getattr(model, method)("h", **options)
    model.add_adapter("p", BY_COMBINE[combine])
    model.set_active_adapters("p")
    randomise(model, "p")
    ids, mask = inputs["input_ids"], mask_of("right")
    model.active_head = None
    states = model(ids, attention_mask=mask).last_hidden_state
    assert states.shape[1] == 7 + P, "without a head the outputs are those of the base model"
    real = without_prompt(states, combine, mask)
    model.active_head = "h"
    expected = model.heads["h"].logits(model.bert.pooler(real) if "pooler" in head else real)
    outputs = model(ids, attention_mask=mask)
    logits = torch.stack([outputs.start_logits, outputs.end_logits], -1) if head == "qa" else outputs.logits
    if head == "classification":
        expected = expected[:, 0]
    assert_close(logits, expected, rtol=1e-5, atol=1e-6)


def test_a_bare_base_model_pools_what_it_gives(inputs: Inputs) -> None:
    model = prompted("bert")
    outputs = model(**inputs)
    assert_close(outputs.pooler_output, upstream("bert").pooler(outputs.last_hidden_state))


def test_hidden_states_and_attentions_keep_the_positions_of_the_prompt(inputs: Inputs) -> None:
    outputs = prompted("bert_lm")(**inputs, output_hidden_states=True, output_attentions=True)
    assert {states.shape[1] for states in outputs.hidden_states[:-1]} == {7 + P}
    assert {attention.shape[-2:] for attention in outputs.attentions} == {(7 + P, 7 + P)}
    assert outputs.logits.shape[1] == 7


def test_outputs_may_be_a_tuple(inputs: Inputs) -> None:
    model = prompted("bert_lm")
    assert_close(model(**inputs, return_dict=False)[0], model(**inputs).logits)


# Generation


def stepwise(model: Any, ids: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
    for _ in range(steps):
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
        logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return ids


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
def test_all_ways_to_generate_agree(combine: str, attention: str, inputs: Inputs) -> None:
    model = prompted("llama_lm", attention, BY_COMBINE[combine])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    expected = stepwise(model, **{"ids": inputs["input_ids"], "mask": inputs["attention_mask"]}, steps=6)
    assert torch.equal(model.generate(**inputs, **options), expected)
    assert torch.equal(model.generate(**inputs, **options, use_cache=False), expected)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    mask = inputs["attention_mask"]
    generated = model.generate(inputs_embeds=embeddings, attention_mask=mask, **options)
    assert torch.equal(generated, expected[:, 7:])
    assert torch.equal(model.generate(**inputs, **options, prefill_chunk_size=4), expected)
    if combine == "prefix":
        assert torch.equal(model.generate(**inputs, **options, prefill_chunk_size=3), expected)
    else:
        with pytest.raises(UnsupportedMethodError, match="the first 3 of some row are padding"):
            model.generate(**inputs, **options, prefill_chunk_size=3)
    model.set_active_adapters(None)
    assert not torch.equal(model.generate(**inputs, **options), expected)


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
def test_beams_agree_with_and_without_a_cache(combine: str, inputs: Inputs) -> None:
    model = prompted("llama_lm", "sdpa", BY_COMBINE[combine])
    options = {"max_new_tokens": 5, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    assert torch.equal(model.generate(**inputs, **options), model.generate(**inputs, **options, use_cache=False))


@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_decoder_that_adds_positions_to_its_tokens_generates_the_same_with_a_cache(
    attention: str, combine: str, inputs: Inputs
) -> None:
    torch.manual_seed(0)
    config: Any = CLASSES["bert"][1]()
    config.is_decoder, config._attn_implementation = True, attention
    model = adapter_models.BertAdapterModel(config).eval()
    model.add_causal_lm_head("lm")
    model.add_adapter("p", BY_COMBINE[combine], set_active=True)
    randomise(model, "p")
    ids, mask = inputs["input_ids"], torch.ones_like(inputs["input_ids"])
    first = model(ids, attention_mask=mask, use_cache=True)
    longer, longer_mask = torch.cat([ids, ids[:, :2]], 1), torch.ones(2, 9, dtype=torch.long)
    expected = model(longer, attention_mask=longer_mask, use_cache=False).logits[:, 7:]
    cached = model(ids[:, :2], attention_mask=longer_mask, past_key_values=first.past_key_values)
    assert_close(cached.logits, expected, rtol=1e-4, atol=1e-5)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "attention_mask": mask}
    assert torch.equal(model.generate(ids, **options), model.generate(ids, **options, use_cache=False))


def test_cached_steps_without_masks_and_positions(inputs: Inputs) -> None:
    model = prompted("llama_lm")
    ids = inputs["input_ids"]
    expected = model(ids, use_cache=False).logits
    first = model(ids[:, :4], use_cache=True)
    rest = model(ids[:, 4:], past_key_values=first.past_key_values)
    assert_close(torch.cat([first.logits, rest.logits], 1), expected, rtol=1e-4, atol=1e-5)
    assert rest.past_key_values.get_seq_length() == 7 + P


def test_generation_goes_on_from_a_cache(inputs: Inputs) -> None:
    model = prompted("llama_lm")
    ids = inputs["input_ids"][:1]
    options = {"do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    expected = model.generate(ids, max_new_tokens=6, **options).sequences
    half = model.generate(ids, max_new_tokens=3, **options)
    rest = model.generate(half.sequences, past_key_values=half.past_key_values, max_new_tokens=3, **options)
    assert torch.equal(rest.sequences, expected)


def test_a_static_cache_without_room_for_the_prompt_is_refused(inputs: Inputs) -> None:
    model = prompted("llama_lm")
    ids = inputs["input_ids"]
    room = StaticCache(config=model.config, max_cache_len=7 + P)
    assert_close(model(ids, past_key_values=room).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    for mask in (None, torch.ones_like(ids)):
        cache = StaticCache(config=model.config, max_cache_len=7 + P - 1)
        with pytest.raises(UnsupportedMethodError, match=f"room for {7 + P - 1} positions"):
            model(ids, attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_masks_that_cannot_grow_are_refused(kind: str, inputs: Inputs) -> None:
    with pytest.raises(UnsupportedMethodError, match="attention mask"):
        prompted(kind)(inputs["input_ids"], attention_mask=torch.zeros(2, 1, 7, 7))


# Composition


def test_a_stack_puts_the_later_prompt_in_front(inputs: Inputs) -> None:
    model = prompted("llama", q="prompt_tuning[prompt_length=2]")
    model.set_active_adapters(Stack("p", "q"))
    given_states = model(**inputs).last_hidden_state
    base = upstream("llama")
    both = torch.cat([prompt_of(model, "q"), prompt_of(model, "p")]).expand(2, -1, -1)
    mask = torch.cat([torch.ones(2, 2 + P, dtype=torch.long), inputs["attention_mask"]], 1)
    embeddings = torch.cat([both, base.embed_tokens(inputs["input_ids"])], 1)
    expected = base(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    assert_close(given_states[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("combine", ["prefix", "prefix_after_bos"])
def test_rows_have_the_prompts_of_their_adapters(kind: str, combine: str, inputs: Inputs) -> None:
    model = prompted(kind, config=BY_COMBINE[combine], q=BY_COMBINE[combine])
    alone = {}
    for name in ("p", "q"):
        model.set_active_adapters(name)
        alone[name] = model(**inputs).last_hidden_state
    model.set_active_adapters(BatchSplit("p", "q", batch_sizes=[1, 1]))
    assert_close(model(**inputs).last_hidden_state, torch.cat([alone["p"][:1], alone["q"][1:]]))
    model.set_active_adapters(Parallel("p", "q"))
    assert_close(model(**inputs).last_hidden_state, torch.cat([alone["p"], alone["q"]]))
    model.set_active_adapters(MultiTask("p", "q"))
    states = model(**inputs, task_ids=torch.tensor([1, 0])).last_hidden_state
    assert_close(states, torch.cat([alone["q"][:1], alone["p"][1:]]))


def test_an_average_is_the_mean_of_the_prompts(inputs: Inputs) -> None:
    model = prompted("bert", q=PROMPT, mean=PROMPT)
    with torch.no_grad():
        prompt_of(model, "mean").copy_(0.25 * prompt_of(model) + 0.75 * prompt_of(model, "q"))
    model.set_active_adapters("mean")
    expected = model(**inputs).last_hidden_state
    model.set_active_adapters(Average("p", "q", weights=[0.25, 0.75]))
    assert_close(model(**inputs).last_hidden_state, expected)


def test_parallel_generation_gives_what_each_adapter_gives(inputs: Inputs) -> None:
    model = prompted("llama_lm", q=PROMPT)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    expected = []
    for name in ("p", "q"):
        model.set_active_adapters(name)
        expected.append(model.generate(**inputs, **options))
    model.set_active_adapters(Parallel("p", "q"))
    assert torch.equal(model.generate(**inputs, **options), torch.cat(expected))


REFUSED = {
    "unequal lengths": (BatchSplit("p", "short", batch_sizes=1), "equally long"),
    "an adapter without a prompt": (Parallel("p", "bn"), "equally long"),
    "unequal lengths in an average": (Average("p", "short"), "equally long"),
    "Split": (Split("p", "q", splits=3), "Split cannot be run with prompt tuning"),
    "different places": (Stack("p", "bos"), "different places"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_composed_is_refused(case: str, inputs: Inputs) -> None:
    model = prompted("bert", q=PROMPT, short="prompt_tuning[prompt_length=2]", bos=AFTER_BOS, bn="seq_bn")
    expected = model(**inputs).last_hidden_state
    block, message = REFUSED[case]
    with pytest.raises(UnsupportedMethodError, match=message):
        model.set_active_adapters(block)
    assert model.active_adapters == Stack("p")
    assert torch.equal(model(**inputs).last_hidden_state, expected)


def test_a_fusion_of_prompts_is_refused() -> None:
    model = prompted("bert", q=PROMPT)
    with pytest.raises(UnsupportedMethodError):
        model.add_adapter_fusion(Fuse("p", "q"))


def test_a_prompt_goes_with_other_methods(inputs: Inputs) -> None:
    model = prompted("llama_lm", q="lora", both=f"{PROMPT}|lora")
    model.set_active_adapters(Stack("p", "q"))
    stacked = model(**inputs).logits
    names = dict(model.adapter_parameters("both"))
    with torch.no_grad():
        for source in ("p", "q"):
            for key, parameter in model.adapter_parameters(source):
                names[key.replace(f".{source}.", ".both.")].copy_(parameter)
    model.set_active_adapters("both")
    assert_close(model(**inputs).logits, stacked)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_reft_edits_the_first_real_tokens_behind_a_prompt(kind: str, inputs: Inputs) -> None:
    model = prompted(kind, reft="noreft[prefix_positions=2,suffix_positions=0]")
    before = model(**inputs, output_hidden_states=True).hidden_states[1]
    model.set_active_adapters(Stack("p", "reft"))
    after = model(**inputs, output_hidden_states=True).hidden_states[1]
    edited = (before - after).abs().amax(-1) > 1e-6
    assert [row.nonzero().flatten().tolist() for row in edited] == [[P, P + 1], [P + 3, P + 4]]


def test_reft_behind_a_prompt_among_the_first_tokens_is_refused() -> None:
    model = prompted("llama", config=AFTER_BOS, reft="noreft")
    with pytest.raises(UnsupportedMethodError, match='combine="prefix"'):
        model.set_active_adapters(Stack("p", "reft"))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_an_invertible_adapter_changes_tokens_and_not_the_prompt(kind: str, inputs: Inputs) -> None:
    model = prompted(kind, inv="seq_bn_inv")
    plain = model(**inputs, output_hidden_states=True).hidden_states[0]
    model.set_active_adapters(Stack("p", "inv"))
    given_states = model(**inputs, output_hidden_states=True).hidden_states[0]
    assert torch.equal(given_states[:, :P], plain[:, :P])
    assert not torch.allclose(given_states[:, P:], plain[:, P:], atol=1e-3)


@pytest.mark.parametrize("kind", ["bert", "bert_lm", "llama"])
def test_the_last_prompt_takes_its_hooks_along(kind: str, inputs: Inputs) -> None:
    def hooks(model: Any) -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    bare = adapted(kind)
    model = prompted(kind, q=PROMPT)
    model.delete_adapter("p")
    model.set_active_adapters("q")
    assert not torch.equal(model(**inputs)[0], bare(**inputs)[0])
    model.delete_adapter("q")
    assert hooks(model) == hooks(bare)
    assert torch.equal(model(**inputs)[0], bare(**inputs)[0])
    model.add_adapter("r", PROMPT)
    model.set_active_adapters("r")
    assert not torch.equal(model(**inputs)[0], bare(**inputs)[0]), "they come back"


def test_a_bias_of_places_in_an_image_has_none_for_a_prompt() -> None:
    model = torch.nn.Module()
    model.embedding_output, model.token_embeddings = "embeddings", ""
    model.embeddings = torch.nn.Identity()
    model.register_parameter("relative_position_bias_table", torch.nn.Parameter(torch.zeros(4, 2)))
    with pytest.raises(UnsupportedMethodError, match="prefix tuning"):
        PromptSites.find(model)


# PEFT puts its prompts in place of token embeddings


@pytest.mark.parametrize("kind", ["bert", "llama", "llama_lm"])
def test_a_prompt_at_the_token_embeddings_is_that_of_peft(kind: str, inputs: Inputs) -> None:
    peft = pytest.importorskip("peft")
    model = prompted(kind, config=f"prompt_tuning[prompt_length={P},insert_at='token_embeddings']")
    task = "CAUSAL_LM" if kind == "llama_lm" else "FEATURE_EXTRACTION"
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=P)
    theirs = peft.get_peft_model(upstream(kind), config).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(prompt_of(model))
    expected, ours = theirs(**inputs), model(**inputs)
    if kind == "llama_lm":
        mask = inputs["attention_mask"].bool()
        assert_close(ours.logits[mask], expected.logits[:, P:][mask], rtol=1e-5, atol=1e-6)
        return
    mask = torch.cat([torch.ones(2, P), inputs["attention_mask"]], 1).bool()
    assert_close(ours.last_hidden_state[mask], expected.last_hidden_state[mask], rtol=1e-5, atol=1e-6)
    if kind == "bert":
        assert_close(ours.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-6)
        changed = prompted(kind)(**inputs).last_hidden_state
        assert not torch.allclose(changed, ours.last_hidden_state, atol=1e-3), "the places differ in BERT"


def test_types_of_tokens_grow_at_the_token_embeddings(inputs: Inputs) -> None:
    model = prompted("bert", config=f"prompt_tuning[prompt_length={P},insert_at='token_embeddings']")
    expected = model(**inputs).last_hidden_state
    types = torch.zeros_like(inputs["input_ids"])
    assert_close(model(**inputs, token_type_ids=types).last_hidden_state, expected)
    assert not torch.allclose(model(**inputs, token_type_ids=types + 1).last_hidden_state, expected, atol=1e-3)


# Where a prompt starts


WORDS = ["[UNK]", "[CLS]", "[SEP]", "is", "this", "positive", "or", "negative"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def words(model: Any, *indices: int) -> torch.Tensor:
    weight: torch.Tensor = model.get_input_embeddings().weight
    return weight[list(indices)]


def text_config(text: str, **options: Any) -> PromptTuningConfig:
    return PromptTuningConfig(prompt_length=P, prompt_init="from_string", prompt_init_text=text, **options)


def test_defect_21_a_prompt_starts_from_a_text(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = adapted("bert")
    model.add_adapter("a", text_config("is this", tokenizer_name_or_path=str(tmp_path / "tokenizer")))
    assert torch.equal(prompt_of(model, "a"), words(model, 3, 4, 3, 4)), "a short text is repeated"
    model.config.name_or_path = str(tmp_path / "tokenizer")
    model.add_adapter("b", text_config("is this positive or negative"))
    assert torch.equal(prompt_of(model, "b"), words(model, 3, 4, 5, 6)), "a long one is cut"
    assert prompt_of(model, "b").data_ptr() != words(model).data_ptr()
    assert prompt_of(model, "b").requires_grad


def test_a_tokenizer_may_be_given(tokenizer: PreTrainedTokenizerFast, inputs: Inputs) -> None:
    model = prompted("llama_lm")
    model.initialise_prompt("p", "or this", tokenizer)
    assert torch.equal(prompt_of(model), words(model, 6, 4, 6, 4))
    model.add_adapter("lora", "lora")
    with pytest.raises(UnsupportedMethodError, match="no prompt"):
        model.initialise_prompt("lora", "or this", tokenizer)


def test_without_a_tokenizer_the_message_says_what_to_do(tmp_path: Path) -> None:
    model = adapted("bert")
    before = set(model.state_dict())
    for source in ("", str(tmp_path)):
        model.config.name_or_path = source
        with pytest.raises(InvalidConfigError, match="initialise_prompt"):
            model.add_adapter("a", text_config("is this"))
        assert "a" not in model.adapters_config
        assert set(model.state_dict()) == before


def test_texts_that_give_no_prompt_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    model = prompted("bert")
    with pytest.raises(InvalidConfigError, match="no list of tokens"):
        model.initialise_prompt("p", " ", tokenizer)
    tokenizer.add_tokens([f"new{index}" for index in range(100)])
    with pytest.raises(InvalidConfigError, match="has embeddings for 99"):
        model.initialise_prompt("p", "new99", tokenizer)
    with pytest.raises(InvalidConfigError, match="prompt_init_text"):
        PromptTuningConfig(prompt_init="from_string")
    with pytest.raises(InvalidConfigError, match="prompt_length is 0"):
        PromptTuningConfig(prompt_length=0)


def test_a_saved_prompt_needs_no_tokenizer(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, inputs: Inputs) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = adapted("bert")
    model.add_adapter("a", text_config("is", tokenizer_name_or_path=str(tmp_path / "tokenizer")), set_active=True)
    randomise(model, "a")
    model.save_adapter(tmp_path / "saved", "a")
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    other = adapted("bert")
    other.load_adapter(tmp_path / "saved", set_active=True)
    assert torch.equal(other(**inputs).last_hidden_state, model(**inputs).last_hidden_state)
    model.save_pretrained(tmp_path / "whole")
    whole = adapter_models.AutoAdapterModel.from_pretrained(tmp_path / "whole").eval()
    whole.set_active_adapters("a")
    assert_close(whole(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_random_prompts_are_uniform_within_the_scale() -> None:
    model = adapted("bert")
    model.add_adapter("a", PromptTuningConfig(prompt_length=50, random_uniform_scale=0.1))
    values = prompt_of(model, "a")
    assert 0.09 < values.abs().max() <= 0.1
    assert abs(values.mean()) < 0.01
    for name, seed in (("b", 7), ("c", 7), ("d", 8)):
        model.add_adapter(name, PromptTuningConfig(init_weights_seed=seed))
    assert torch.equal(prompt_of(model, "b"), prompt_of(model, "c"))
    assert not torch.equal(prompt_of(model, "b"), prompt_of(model, "d"))


# Defects of `adapters`


def test_defect_7_the_scale_of_random_prompts_is_saved(tmp_path: Path) -> None:
    config = PromptTuningConfig(random_uniform_scale=0.25)
    assert AdapterConfig.from_dict(config.to_dict()) == config
    assert PromptTuningConfig() != config
    model = adapted("bert")
    model.add_adapter("a", config)
    model.save_adapter(tmp_path, "a")
    other = adapted("bert")
    other.load_adapter(tmp_path)
    assert other.adapters_config.get("a") == config


def test_defect_32_a_prompt_is_loaded_under_another_name(tmp_path: Path, inputs: Inputs) -> None:
    model = prompted("bert")
    model.save_adapter(tmp_path, "p")
    other = adapted("bert")
    other.load_adapter(tmp_path, load_as="other", set_active=True)
    assert torch.equal(other(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


@pytest.mark.parametrize("kind", ["bert_lm", "llama_lm"])
def test_defect_4_attentions_may_be_asked_for_under_sdpa(kind: str, inputs: Inputs) -> None:
    model = prompted(kind, "sdpa")
    outputs = model(**inputs, output_attentions=True)
    assert_close(outputs.logits, model(**inputs).logits)


def test_keys_are_those_of_adapters() -> None:
    model = prompted("bert_lm")
    assert [key for key in model.state_dict() if ".p." in key] == [
        "bert.prompt_tuning.prompt_tunings.p.prompt_embedding.weight"
    ]
    assert prompt_of(model).shape == (P, 32)
    assert list(model.get_adapter("p")) == [-1]


# What the rest of the house counts on


@pytest.mark.parametrize(
    "config", [PROMPT, AFTER_BOS, f"prompt_tuning[prompt_length={P},insert_at='token_embeddings']"]
)
@pytest.mark.parametrize(("kind", "attention"), [("llama_lm", "sdpa"), ("bert_lm", "eager")])
def test_one_graph(kind: str, attention: str, config: str, inputs: Inputs) -> None:
    torch._dynamo.reset()
    model = prompted(kind, attention, config)
    model.train_adapter("p")
    model.eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    gradients = []
    for run in (model, compiled):
        model.zero_grad()
        logits = run(**inputs, use_cache=False).logits
        logits.square().sum().backward()
        gradients.append((logits, prompt_of(model).grad.clone()))  # type: ignore[union-attr]
    assert_close(*gradients)
    assert gradients[0][1].abs().min() > 0
    torch._dynamo.reset()


def test_training_reaches_the_prompt_alone(inputs: Inputs) -> None:
    model = prompted("llama")
    model.train_adapter("p")
    assert [key for key, parameter in model.named_parameters() if parameter.requires_grad] == [
        "prompt_tuning.prompt_tunings.p.prompt_embedding.weight"
    ]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_copies_have_prompts_of_their_own(kind: str, inputs: Inputs) -> None:
    model = prompted(kind)
    expected = model(**inputs).last_hidden_state
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_close(other(**inputs).last_hidden_state, expected)
        with torch.no_grad():
            prompt_of(other).zero_()
        assert not torch.allclose(other(**inputs).last_hidden_state, expected, atol=1e-3)
        assert_close(model(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_nothing_is_left_of_a_prompt_that_is_not_active(kind: str, inputs: Inputs) -> None:
    model, untouched = prompted(kind), adapted(kind)
    model.set_active_adapters(None)
    assert torch.equal(model(**inputs).last_hidden_state, upstream(kind)(**inputs).last_hidden_state)
    with adapter_models.AdapterSetup("p"):
        assert model(**inputs).last_hidden_state.shape[1] == 7 + P
    assert model(**inputs).last_hidden_state.shape[1] == 7
    model.delete_adapter("p")
    assert list(model.state_dict()) == list(untouched.state_dict())
    assert {name for name, _ in model.named_modules()} == {name for name, _ in untouched.named_modules()}


def test_a_call_that_fails_leaves_no_trace(inputs: Inputs) -> None:
    model = prompted("bert")
    expected = model(**inputs).last_hidden_state
    with pytest.raises(UnsupportedMethodError):
        model(inputs["input_ids"], attention_mask=torch.zeros(2, 1, 7, 7))
    assert torch.equal(model(**inputs).last_hidden_state, expected)
    model.set_active_adapters(None)
    assert model(**inputs).last_hidden_state.shape[1] == 7


def test_padding_says_nothing(inputs: Inputs) -> None:
    for kind in ("bert", "llama"):
        for combine, config in BY_COMBINE.items():
            model = prompted(kind, config=config)
            mask = inputs["attention_mask"]
            changed = torch.where(mask == 1, inputs["input_ids"], 5)
            real = by_hand(mask, torch.ones(P, dtype=torch.long), combine, mask).bool()
            outputs = [
                model(ids, attention_mask=mask).last_hidden_state[real] for ids in (inputs["input_ids"], changed)
            ]
            assert_close(*outputs)


def test_gradients_are_the_same_with_checkpointing(inputs: Inputs) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = prompted("llama_lm")
        model.train_adapter("p")
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs, use_cache=False).logits.square().sum().backward()
        gradients.append(prompt_of(model).grad)
    assert_close(*gradients)


@pytest.mark.parametrize(
    ("own", "length"),
    [
        pytest.param(None, 5, id="no function of its own"),
        pytest.param(lambda attention_mask, **_: attention_mask, 5, id="one that leaves it"),
        pytest.param(
            lambda attention_mask, **_: attention_mask[:, None, None], 5, id="one that makes masks of layers"
        ),
        pytest.param(
            lambda attention_mask, **_: nn.functional.pad(attention_mask, (0, 7)), 9, id="one that fills it up"
        ),
    ],
)
def test_a_mask_that_is_filled_up_to_the_cache_leaves_room_for_the_prompt(own: Any, length: int) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    found = _mask_of_tokens(own, 3, attention_mask=mask, config=None)
    assert found is not None and found.tolist() == nn.functional.pad(mask, (0, length - 5)).tolist()
    assert _mask_of_tokens(lambda attention_mask, **_: None, 3) is None


@pytest.mark.parametrize(
    ("shape", "is_shortened"),
    [
        pytest.param((2, 6, 3), True, id="states of the width of the last ones"),
        pytest.param(
            (2, 6, 5), True, id="states of another width, where the last ones are projected (EmbeddingGemma 2)"
        ),
        pytest.param((2, 4, 3), False, id="states of other positions"),
        pytest.param((2, 6, 6, 6), False, id="weights of attention with as many heads as there are positions"),
    ],
)
def test_a_whole_reads_the_states_of_the_layers_of_a_part_without_its_prompt(
    shape: tuple[int, ...], is_shortened: bool
) -> None:
    call = PromptCall(None, Insertion(2), 0)
    call.is_of_part = True
    given = torch.randn(shape)
    (found,) = _without_prompt(call, (given,), torch.Size((2, 6, 3)))
    assert torch.equal(found, given[:, 2:] if is_shortened else given)


# What else has one entry per token


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param("encoder_attention_mask", (2, 4, 3), id="of what an encoder gave: zeros would hide all of it"),
        pytest.param("image_attention_mask", (2, 4, 3, 3), id="of places in as many images as there are tokens"),
        pytest.param("image_attention_mask", (2, 3, 4), id="of another number of tokens"),
        pytest.param("pixel_values", (2, 4, 3), id="as many images as there are tokens"),
    ],
)
def test_what_does_not_grow_with_the_tokens(name: str, shape: tuple[int, ...]) -> None:
    assert dict(with_prompt(Insertion(2), {name: torch.ones(shape)}, torch.Size((2, 4, 8)))) == {}


@pytest.mark.parametrize(("name", "shape"), [("token_type_ids", (2, 4)), ("image_attention_mask", (2, 4, 3))])
@pytest.mark.parametrize("at", [0, 1])
def test_a_prompt_is_text_that_sees_no_image(name: str, shape: tuple[int, ...], at: int) -> None:
    given = torch.ones(shape, dtype=torch.long)
    ((found, grown),) = with_prompt(Insertion(2, at), {name: given}, torch.Size((2, 4, 8)))
    zeros = given.new_zeros(2, 2, *shape[2:])
    assert found == name and torch.equal(grown, torch.cat([given[:, :at], zeros, given[:, at:]], dim=1))
