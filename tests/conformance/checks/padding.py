"""What stands in padded places, left or right, does not change the outputs at real tokens."""

from __future__ import annotations

import functools
from typing import Any

import torch

from conformance.adapted import adapted
from conformance.checks.padded_sounds import padded_sounds_are_as_alone
from conformance.checks.padded_texts import padded_texts_are_as_alone, reads_padded_texts
from conformance.in_double import assert_same_but_for_rounding
from conformance.methods import Method, positions_in_front
from conformance.outputs import are_close, assert_differs, at_tokens, run
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import BATCH, LENGTH, Subject, attentions, random_tokens, takes


def padded_places_do_not_matter(subject: Subject, method: Method) -> None:
    if reads_padded_texts(subject):
        padded_texts_are_as_alone(subject, method)
        return
    if not subject.text:
        padded_sounds_are_as_alone(subject, method)
        return
    for attention in attentions(subject):
        model = adapted(subject, method, attention)
        for padding in ("left", "right"):
            inputs = with_positions(subject, subject.padded_inputs(padding))
            refilled = with_other_padding(subject, inputs)
            mask = None if subject.kind == "encoder-decoder" else inputs["attention_mask"]
            what = f"{attention}, padding {padding}"
            upstream = subject.upstream(attention)
            theirs, others = (at_tokens(run(upstream, given), mask) for given in (inputs, refilled))
            if not are_close(theirs, others, atol=1e-6, rtol=1e-5):
                raise DoesNotApply(Reason.UPSTREAM_SEES_PADDING)
            in_front = positions_in_front(method.parts)
            read = functools.partial(at_tokens, mask=mask, in_front=in_front)
            assert_same_but_for_rounding(model, inputs, refilled, read, what)
            assert_differs(read(run(model, inputs)), theirs, "the adapter")
            if padding == "left" or not _hides_later_tokens(upstream, inputs):
                unmasked = [without_mask(upstream, given) for given in (inputs, refilled)]
                before, after = (at_tokens(run(model, given), mask, in_front) for given in unmasked)
                assert_differs(after, before, f"{what}: the padding, without a mask,")  # the check is not empty


def with_positions(subject: Subject, inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` with stated positions where they can be: some models count them from the padded tokens."""
    if not takes(subject, "position_ids"):
        return inputs
    return {**inputs, "position_ids": torch.arange(LENGTH).repeat(BATCH, 1)}


def with_other_padding(subject: Subject, inputs: dict[str, Any]) -> dict[str, Any]:
    """Other tokens (and encoder states) in padded places."""
    mask = inputs["attention_mask"]
    noise = random_tokens(subject.config(), LENGTH, seed=8)
    other = {**inputs, "input_ids": torch.where(mask.bool(), inputs["input_ids"], noise)}
    if "encoder_attention_mask" in inputs:
        seen = inputs["encoder_attention_mask"].bool()[..., None]
        other["encoder_hidden_states"] = torch.where(seen, inputs["encoder_hidden_states"], torch.tensor(3.0))
    return other


def _hides_later_tokens(upstream: Any, inputs: dict[str, Any]) -> bool:
    """Upstream's own class shows no token a later one: padding on the right needs no mask. Some encoders do so, too."""
    exchanged = inputs["input_ids"].clone()
    exchanged[:, -1] = exchanged[:, 0]
    unmasked = without_mask(upstream, inputs)
    outputs = [
        at_tokens(run(upstream, {**unmasked, "input_ids": ids}), None) for ids in (inputs["input_ids"], exchanged)
    ]
    shape = inputs["input_ids"].shape
    early = [{key: value[:, :-1] for key, value in one.items() if value.shape[:2] == shape} for one in outputs]
    return are_close(*early, atol=1e-6, rtol=1e-5)


def without_mask(upstream: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` without the mask; with one of ones where upstream's own class fails without any.

    What upstream warns by, where tokens are padded and there is no mask, reads a field that not every config has (Funnel).
    """
    unmasked = {key: value for key, value in inputs.items() if key != "attention_mask"}
    try:
        run(upstream, unmasked)
    except AttributeError:
        return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    return unmasked
