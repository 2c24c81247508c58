"""Where upstream lets no token see a later one, another token t changes no output before t; also in a text with images in it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conformance.adapted import adapted
from conformance.in_double import assert_same_but_for_rounding
from conformance.methods import Method
from conformance.outputs import are_close, assert_differs, at_tokens, run
from conformance.prompts import are_placeholders
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import FIRST_TOKEN, Attention, Padding, Subject, attentions, vocabulary

CHANGED = 4  # the place of the token that is exchanged, where no image stands there


class Exchange(NamedTuple):
    """Inputs, and the same with another token in one place of each row."""

    place: int
    length: int  # of the tokens
    before: dict[str, Any]
    after: dict[str, Any]

    def early(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """At the tokens before the one that is exchanged, and at those of a prompt in front of them."""
        return {name: value[:, : self._in_outputs(value)] for name, value in self._of_tokens(outputs)}

    def late(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[:, self._in_outputs(value) :] for name, value in self._of_tokens(outputs)}

    def _of_tokens(self, outputs: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
        return [one for one in at_tokens(outputs, None).items() if one[1].shape[1] >= self.length]

    def _in_outputs(self, value: Tensor) -> int:
        return value.shape[1] - self.length + self.place


def earlier_outputs_are_unchanged(subject: Subject, method: Method) -> None:
    for attention in attentions(subject):
        for padding in ("none", "right"):
            exchange = _exchange(subject, padding)
            why_not = _asked(subject, attention, padding)
            if why_not is not None:
                raise DoesNotApply(why_not)
            model = adapted(subject, method, attention)
            what = f"{attention}, padding {padding}"
            before, after = (run(model, given) for given in (exchange.before, exchange.after))
            assert_differs(exchange.late(after), exchange.late(before), f"{what}: the token")
            upstream = run(subject.upstream(attention), exchange.before)
            assert_differs(at_tokens(before, None), at_tokens(upstream, None), "the adapter")
            assert_same_but_for_rounding(model, exchange.before, exchange.after, exchange.early, what)


def why_not_causal(subject: Subject) -> Reason | None:
    """Why the check does not apply to what is no decoder by its kind: as upstream's own class says, which may be one all the same."""
    try:
        return _asked(subject, "eager", "none")
    except DoesNotApply as found:
        return found.reason


def _exchange(subject: Subject, padding: Padding) -> Exchange:
    inputs = subject.padded_inputs(padding)
    name = "decoder_input_ids" if subject.kind == "encoder-decoder" else "input_ids"
    if name not in inputs or inputs[name].dim() != 2:
        raise DoesNotApply(Reason.NO_TOKENS)
    tokens: Tensor = inputs[name].clone()
    plain = (~are_placeholders(subject, tokens)).all(0).nonzero().flatten().tolist()
    place = CHANGED if CHANGED in plain else max(plain, default=0)
    if place == 0:
        raise DoesNotApply(Reason.NO_TOKENS)
    exchanged = _another(tokens[:, place], vocabulary(subject.config()))
    while bool((refused := are_placeholders(subject, exchanged)).any()):
        exchanged = torch.where(refused, _another(exchanged, vocabulary(subject.config())), exchanged)
    tokens[:, place] = exchanged
    return Exchange(place, tokens.shape[1], inputs, {**inputs, name: tokens})


def _another(tokens: Tensor, size: int) -> Tensor:
    """Others that are not special either."""
    return (tokens - FIRST_TOKEN + 1) % (size - FIRST_TOKEN) + FIRST_TOKEN


@functools.cache
def _asked(subject: Subject, attention: Attention, padding: Padding) -> Reason | None:
    """Why upstream's own model is no measure."""
    exchange, upstream = _exchange(subject, padding), subject.upstream(attention)
    early = [exchange.early(run(upstream, given)) for given in (exchange.before, exchange.after)]
    if not all(early):
        return Reason.NO_TOKENS  # whose outputs could be looked at
    if are_close(*early, atol=1e-6, rtol=1e-5):
        return None
    return Reason.UPSTREAM_SEES_LATER_TOKENS if subject.causal else Reason.NOT_CAUSAL
