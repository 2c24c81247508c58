"""In a decoder, another token t changes no output before t."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from conformance.adapted import adapted
from conformance.in_double import assert_same_but_for_rounding
from conformance.methods import Method
from conformance.outputs import are_close, assert_differs, at_tokens, run
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import FIRST_TOKEN, Subject, attentions, vocabulary

CHANGED = 4  # the place of the token that is exchanged


def earlier_outputs_are_unchanged(subject: Subject, method: Method) -> None:
    for attention in attentions(subject):
        model = adapted(subject, method, attention)
        for padding in ("none", "right"):
            inputs = subject.padded_inputs(padding)
            name = "decoder_input_ids" if subject.kind == "encoder-decoder" else "input_ids"
            if name not in inputs or inputs[name].dim() != 2 or inputs[name].shape[1] <= CHANGED:
                raise DoesNotApply(Reason.NO_TOKENS)
            tokens = inputs[name].clone()
            tokens[:, CHANGED] = _another(tokens[:, CHANGED], vocabulary(subject.config()))
            upstream = subject.upstream(attention)
            if not _is_causal(upstream, inputs, name, tokens):
                raise DoesNotApply(Reason.UPSTREAM_SEES_LATER_TOKENS)
            exchanged = {**inputs, name: tokens}
            before, after = (at_tokens(run(model, given), None) for given in (inputs, exchanged))
            what = f"{attention}, padding {padding}"
            late = [{key: value[:, CHANGED:] for key, value in out.items()} for out in (after, before)]
            assert_differs(late[0], late[1], f"{what}: the token")
            assert_differs(before, at_tokens(run(upstream, inputs), None), "the adapter")
            assert_same_but_for_rounding(model, inputs, exchanged, _early, what)


def _another(tokens: Tensor, size: int) -> Tensor:
    """Others that are not special either."""
    return (tokens - FIRST_TOKEN + 1) % (size - FIRST_TOKEN) + FIRST_TOKEN


def _is_causal(upstream: nn.Module, inputs: dict[str, Any], name: str, tokens: Tensor) -> bool:
    """Upstream may also refuse the exchange, where it counts the tokens that stand for an image."""
    try:
        early = [_early(run(upstream, {**inputs, name: ids})) for ids in (inputs[name], tokens)]
    except (ValueError, RuntimeError):
        return False
    if not all(early):
        raise DoesNotApply(Reason.NO_TOKENS)  # whose outputs could be looked at
    return are_close(*early, atol=1e-6, rtol=1e-5)


def _early(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """At the tokens before the one that is exchanged."""
    return {key: value[:, :CHANGED] for key, value in at_tokens(outputs, None).items()}
