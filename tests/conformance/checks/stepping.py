"""A decoder that is given one token after the other, with a cache that begins empty, computes what it does for all of them at once.

In the first step there is one key, and no mask could hide anything: what is made for many keys must not be taken for granted.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conformance.adapted import adapted
from conformance.checks.decoding import cached
from conformance.methods import Method
from conformance.outputs import assert_differs, assert_equal_within
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import Subject, attentions

STEPS = 4


def steps_are_the_whole(subject: Subject, method: Method) -> None:
    """Logits, in every attention implementation."""
    if not upstream_steps(subject):
        raise DoesNotApply(Reason.UPSTREAM_DECODES_OTHERWISE)
    for attention in attentions(subject):
        model = adapted(subject, method, attention)
        whole, steps = both(model, subject)
        assert_differs({"logits": whole}, {"logits": both(subject.upstream(attention), subject)[0]}, "the adapter")
        what = f"{attention}, one token after the other"
        assert_equal_within({"logits": steps}, {"logits": whole}, what, atol=5e-5, rtol=1e-3)


def both(model: PreTrainedModel, subject: Subject) -> tuple[Tensor, Tensor]:
    """(B, steps, vocabulary) of one forward and of as many as there are tokens."""
    inputs = subject.padded_inputs()
    name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    tokens = inputs[name][:, :STEPS]
    with torch.no_grad():
        whole = model(**{**inputs, name: tokens}, use_cache=False).logits
        given: dict[str, Any] = {**inputs, **cached(subject)}
        steps = []
        for token in tokens.split(1, dim=1):
            outputs = model(**{**given, name: token})
            given["past_key_values"] = outputs.past_key_values
            steps.append(outputs.logits)
    return whole, torch.cat(steps, dim=1)


@functools.cache
def upstream_steps(subject: Subject) -> bool:
    """Upstream itself computes step by step what it does at once."""
    try:
        whole, steps = both(subject.upstream(), subject)
    except Exception:
        return False
    return whole.shape == steps.shape and torch.allclose(whole, steps, atol=1e-4, rtol=1e-3)
