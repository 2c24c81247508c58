"""`generate` with a cache, without one, with a static one and with beams, and step-by-step full forwards, all agree."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from conformance.adapted import adapted
from conformance.methods import Method, ReFT
from conformance.outputs import assert_differs, assert_equal_within
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import Attention, Subject, attentions, random_tokens

STEPS = 4
PROMPTS = 8  # with which upstream is tried
SETTINGS: dict[str, Any] = {
    "max_new_tokens": STEPS,
    "do_sample": False,
    "num_beams": 1,  # some checkpoints search with beams by default (FSMT)
    "eos_token_id": None,  # never stop early
    "pad_token_id": 0,
    "return_dict_in_generate": True,
    "output_logits": True,
    "disable_compile": True,
}


def decoding_agrees(subject: Subject, method: Method) -> None:
    """All ways to decode give what full forwards give.

    A full forward cannot tell the end of a prompt from that of the text. Where a method edits it, the ways to decode are
    held to each other, and only the first step to a full forward.
    """
    if _upstream_logits(subject) is None:
        raise DoesNotApply(Reason.UPSTREAM_DECODES_OTHERWISE)
    edits_end = any(isinstance(part, ReFT) and part.suffix for part in method.parts)
    for attention in attentions(subject):
        model = adapted(subject, method, attention)
        inputs = generation_inputs(subject)
        stepwise = step_by_step(model, inputs)
        assert_differs({"logits": stepwise}, {"logits": _upstream_logits(subject)}, "the adapter")
        if edits_end:
            first, stepwise = stepwise[:, 0], logits_of(model, inputs, use_cache=False)
            assert_equal_within({"logits": stepwise[:, 0]}, {"logits": first}, f"{attention}, first step")
        for what, settings in ways(subject):
            logits = logits_of(model, inputs, **settings)
            assert_equal_within({"logits": logits}, {"logits": stepwise}, f"{attention}, {what}", atol=5e-5, rtol=1e-3)
        try:
            _assert_beams_agree(model, subject, inputs, attention)
        except AssertionError:
            if _upstream_beams_agree(subject):
                raise


def ways(subject: Subject) -> list[tuple[str, dict[str, Any]]]:
    """The ways to decode that upstream itself has for this class."""
    known = [("cache", cached(subject)), ("no cache", {"use_cache": False})]
    if has_static_cache(subject):
        known.append(("static cache", {"cache_implementation": "static"}))
    return known


@functools.cache
def decodes(subject: Subject) -> bool:
    """Upstream itself decodes with a cache and without one as it reads."""
    upstream, inputs = subject.upstream(), generation_inputs(subject)
    try:
        stepwise = step_by_step(upstream, inputs)
        found = [logits_of(upstream, inputs, **way) for way in (cached(subject), {"use_cache": False})]
    except Exception:
        return False
    return all(torch.allclose(logits, stepwise, atol=1e-4, rtol=1e-3) for logits in found)


def cached(subject: Subject) -> dict[str, Any]:
    """Settings of decoding with a cache. Upstream makes one with room for an encoder only for encoder-decoders."""
    if subject.cross:
        return {"use_cache": True, "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
    return {"use_cache": True}


@functools.cache
def has_static_cache(subject: Subject) -> bool:
    """Upstream decodes with a static cache, and as it does step by step."""
    upstream, inputs = subject.upstream(attentions(subject)[-1]), generation_inputs(subject)
    try:
        logits = logits_of(upstream, inputs, cache_implementation="static")
    except Exception:
        return False
    return torch.allclose(logits, step_by_step(upstream, inputs), atol=1e-4)


def generation_inputs(subject: Subject) -> dict[str, Any]:
    """Prompts with padding on the left; what an encoder-decoder encodes is padded on the right."""
    inputs = subject.padded_inputs("right" if subject.kind == "encoder-decoder" else "left")
    inputs.pop("decoder_input_ids", None)
    return inputs


def logits_of(model: PreTrainedModel, inputs: dict[str, Any], **settings: Any) -> Tensor:
    """(B, steps, vocabulary)"""
    return torch.stack(_generated(model, inputs, **settings).logits, dim=1)


def _generated(model: PreTrainedModel, inputs: dict[str, Any], **settings: Any) -> Any:
    start = {"decoder_start_token_id": first_token(model)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.generate(**inputs, **{**SETTINGS, **start, **settings})


def first_token(model: PreTrainedModel) -> int:
    """What a decoder starts from; any token where upstream leaves that to checkpoints (T5)."""
    stated = (model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id)
    return next((token for token in stated if token is not None), 0)


def step_by_step(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    """The same by one full forward per token, without a cache and without ``generate``."""
    steps = []
    given = dict(inputs)
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = torch.full((next(iter(inputs.values())).shape[0], 1), first_token(model))
    with torch.no_grad():
        for _ in range(STEPS):
            steps.append(model(**given, **_positions(model, given), use_cache=False).logits[:, -1].float())
            given = _longer(given, steps[-1].argmax(-1, keepdim=True))
    return torch.stack(steps, dim=1)


def _positions(model: PreTrainedModel, given: dict[str, Any]) -> dict[str, Tensor]:
    """Positions of real tokens count from 0, as ``generate`` has it."""
    if model.config.is_encoder_decoder or "position_ids" not in _parameters(type(model)):
        return {}
    mask = given["attention_mask"]
    return {"position_ids": (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)}


def _parameters(cls: type) -> set[str]:
    import inspect

    upstream = next(base for base in cls.__mro__ if base.__module__.startswith("transformers.models"))
    return set(inspect.signature(upstream.forward).parameters)


def _longer(given: dict[str, Any], token: Tensor) -> dict[str, Any]:
    if "decoder_input_ids" in given:
        return {**given, "decoder_input_ids": torch.cat([given["decoder_input_ids"], token], dim=1)}
    mask = given["attention_mask"]
    return {
        **given,
        "input_ids": torch.cat([given["input_ids"], token], dim=1),
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1),
    }


def _assert_beams_agree(
    model: PreTrainedModel, subject: Subject, inputs: dict[str, Any], attention: Attention
) -> None:
    beams = {"num_beams": 3, "output_scores": True}
    with_cache, plain = (_generated(model, inputs, **beams, **way) for way in (cached(subject), {"use_cache": False}))
    if not torch.equal(with_cache.sequences, plain.sequences):
        raise AssertionError(f"{attention}: beam search gives other tokens with a cache than without")
    assert_equal_within(
        {"scores": with_cache.sequences_scores}, {"scores": plain.sequences_scores}, f"{attention}, beams", rtol=1e-3
    )


@functools.cache
def _upstream_beams_agree(subject: Subject) -> bool:
    """Where upstream's cache cannot be put into another order of rows (MiniMax's, RecurrentGemma's), beams with it are others.

    Not with every prompt: the best beam may be the first in each step.
    """
    inputs = generation_inputs(subject)
    try:
        _assert_beams_agree(subject.upstream(), subject, inputs, "eager")
        for seed in range(PROMPTS if "input_ids" in inputs else 0):
            tokens = random_tokens(subject.config(), inputs["input_ids"].shape[1], seed)
            _assert_beams_agree(subject.upstream(), subject, {**inputs, "input_ids": tokens}, "eager")
    except AssertionError:
        return False
    return True


@functools.cache
def _upstream_logits(subject: Subject) -> Tensor | None:
    """None where upstream does not decode as it reads."""
    return step_by_step(subject.upstream(), generation_inputs(subject)) if decodes(subject) else None
