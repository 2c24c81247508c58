"""`generate` with a cache, without one, with a static one and with beams, and step-by-step full forwards, all agree."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from adapter_runtime.errors import UnsupportedMethodError
from conformance.adapted import adapted
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import Method, ReFT
from conformance.outputs import assert_bitwise, assert_differs, assert_equal_within, fresh
from conformance.prompts import (
    STEPS,
    Way,
    first_token,
    generating,
    has_more_than_tokens,
    prompts,
    stands_for_more,
    step_by_step,
    ways,
)
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import Attention, Subject, attentions, random_tokens

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
    """All ways to decode give what full forwards give, and without an active adapter bitwise what upstream gives.

    A full forward cannot tell the end of a prompt from that of the text. Where a method edits it, the ways to decode are
    held to each other, and only the first step to a full forward.
    """
    decoder = generating(subject)
    known = decoding_of(decoder) if decoder is not None else None
    if decoder is None or known is None:
        raise DoesNotApply(Reason.UPSTREAM_DECODES_OTHERWISE)
    edits_end = any(isinstance(part, ReFT) and part.suffix for part in method.parts)
    inputs = known.prompts
    for attention in attentions(decoder):
        model = adapted(decoder, method, attention)
        expected = _expected(model, decoder, inputs)
        assert_differs({"logits": expected}, {"logits": known.logits}, "the adapter")
        if known.is_stepwise:
            stepwise = step_by_step(model, inputs, known.way)
            steps = slice(1) if edits_end else slice(None)
            _assert_close(expected[:, steps], stepwise[:, steps], f"{attention}, no cache")
        for what, settings in ways_to_decode(decoder):
            _assert_way_agrees(model, inputs, expected, settings, f"{attention}, {what}")
        try:
            _assert_beams_agree(model, decoder, inputs, attention)
        except Exception:  # also where upstream does not repeat images for each beam (Llama 4)
            if _upstream_beams_agree(decoder):
                raise
        model.set_active_adapters(None)
        theirs = logits_of(decoder.upstream(attention), inputs, **cached(decoder))
        assert_bitwise(
            {"logits": logits_of(model, inputs, **cached(decoder))}, {"logits": theirs}, f"{attention}, no adapter"
        )


def _expected(model: PreTrainedModel, decoder: Subject, inputs: dict[str, Any]) -> Tensor:
    """Without a cache."""
    try:
        return logits_of(model, inputs, use_cache=False)
    except UnsupportedMethodError as error:
        if decoder.generates or "past that forward" not in str(error):
            raise
        raise DoesNotApply(Reason.GENERATES_PAST_FORWARD) from error


def _assert_way_agrees(
    model: PreTrainedModel, inputs: dict[str, Any], expected: Tensor, settings: dict[str, Any], what: str
) -> None:
    """A way to decode gives what decoding without a cache gives, but for roundings: linear attention of many tokens at once sums in another
    order than that of one after the other (GLM-5 Next).
    """

    def compare(is_double: bool) -> None:
        if not is_double:
            _assert_close(logits_of(model, inputs, **settings), expected, what)
            return
        running, given = copy.deepcopy(model).double(), doubled(inputs)
        ours, theirs = (logits_of(running, given, **way) for way in (settings, {"use_cache": False}))
        _assert_close(ours, theirs, what, IN_DOUBLE)

    in_either_precision(compare)


def _assert_close(ours: Tensor, theirs: Tensor, what: str, share: float = 1.0) -> None:
    """
    Args:
        share: of the bounds in single precision.
    """
    assert_equal_within({"logits": ours}, {"logits": theirs}, what, atol=5e-5 * share, rtol=1e-3 * share)


def ways_to_decode(subject: Subject) -> list[tuple[str, dict[str, Any]]]:
    """The ways to decode with a cache that upstream itself has for this class."""
    known = [("cache", cached(subject))]
    if has_static_cache(subject):
        known.append(("static cache", {"cache_implementation": "static"}))
    return known


@dataclass(frozen=True)
class Decoding:
    """How upstream's own class decodes prompts, with a cache as without."""

    way: Way
    prompts: dict[str, Any]
    logits: Tensor  # (B, steps, vocabulary)
    is_stepwise: bool  # as full forwards do; one of Qwen2-VL counts positions otherwise


@functools.cache
def decoding_of(subject: Subject) -> Decoding | None:
    """The first way in which upstream itself decodes as it reads; of prompts with more than tokens, also one that it decodes alike with a
    cache and without. None if there is none.
    """
    found = [one for way in ways(subject) if (one := _tried(subject, way)) is not None]
    may_differ = has_more_than_tokens(subject)
    return next((one for one in found if one.is_stepwise), found[0] if found and may_differ else None)


def _tried(subject: Subject, way: Way) -> Decoding | None:
    upstream, inputs = subject.upstream(), prompts(subject, way)
    try:
        plain = logits_of(upstream, inputs, use_cache=False)
        with_cache = logits_of(upstream, inputs, **cached(subject))
    except Exception:
        return None
    if not _are_close(with_cache, plain):
        return None
    if has_more_than_tokens(subject):
        way = _with_positions(way, upstream, inputs)
    try:
        stepwise = step_by_step(upstream, inputs, way)
    except Exception:
        return Decoding(way, inputs, plain, False)
    return Decoding(way, inputs, plain, _are_close(plain, stepwise))


def _with_positions(way: Way, upstream: PreTrainedModel, inputs: dict[str, Any]) -> Way:
    """With where `generate` counts from (PaliGemma: from 1), or the positions along several axes that it gives."""
    given: list[Any] = []
    handle = upstream.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get("position_ids")), with_kwargs=True
    )
    try:
        logits_of(upstream, inputs, use_cache=False)
    finally:
        handle.remove()
    positions = [one for one in given if isinstance(one, Tensor)]
    if len(positions) < STEPS:
        return replace(way, first_position=None)
    if positions[0].dim() == 2:
        return replace(way, first_position=int(positions[0][0, 0]))
    return replace(way, first_position=None, positions=tuple(positions))


def _are_close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3)


def cached(subject: Subject) -> dict[str, Any]:
    """Settings of decoding with a cache. Upstream makes one with room for an encoder only for encoder-decoders."""
    if subject.cross:
        return {"use_cache": True, "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
    return {"use_cache": True}


@functools.cache
def has_static_cache(subject: Subject) -> bool:
    """Upstream decodes with a static cache, and as it does without one."""
    known = decoding_of(subject)
    assert known is not None
    upstream = subject.upstream(attentions(subject)[-1])
    try:
        logits = logits_of(upstream, known.prompts, cache_implementation="static")
        return torch.allclose(logits, logits_of(upstream, known.prompts, use_cache=False), atol=1e-4)
    except Exception:
        return False


def logits_of(model: PreTrainedModel, inputs: dict[str, Any], **settings: Any) -> Tensor:
    """(B, steps, vocabulary)"""
    return torch.stack(_generated(model, inputs, **settings).logits, dim=1)


def _generated(model: PreTrainedModel, inputs: dict[str, Any], **settings: Any) -> Any:
    start = {"decoder_start_token_id": first_token(model)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        kept_out = {"suppress_tokens": stands_for_more(model.config.model_type) or None}
        return model.generate(**fresh(inputs), **{**SETTINGS, **kept_out, **start, **settings})


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
    known = decoding_of(subject)
    assert known is not None
    inputs = known.prompts
    try:
        _assert_beams_agree(subject.upstream(), subject, inputs, "eager")
        for seed in range(PROMPTS if subject.text and "input_ids" in inputs else 0):
            tokens = random_tokens(subject.config(), inputs["input_ids"].shape[1], seed)
            _assert_beams_agree(subject.upstream(), subject, {**inputs, "input_ids": tokens}, "eager")
    except Exception:
        return False
    return True
