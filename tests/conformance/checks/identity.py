"""With no active adapter, a model is bit for bit what upstream's untouched class computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from conformance.adapted import FIRST, initialised, randomise_adapter
from conformance.compared import note
from conformance.methods import Method
from conformance.outputs import assert_bitwise, assert_differs, flags, flatten, loss_of, run, seeded
from conformance.reasons import DoesNotApply, Reason
from conformance.several import with_other_numbers
from conformance.subjects import Attention, Subject, attentions, shaped_for, with_labels


def initialised_is_upstream(subject: Subject) -> None:
    """Outputs, hidden states, attentions, cache and gradients after ``init``, in every attention implementation."""
    others = {what for what, _ in with_other_numbers(subject)}
    for attention in attentions(subject):
        # Upstream's own outputs may depend on the calls before (SAM records more once it has recorded attentions): the
        # model that is called after `init` was made, but not called, before.
        upstream = subject.upstream(attention)
        before = _outputs_of_calls(subject.upstream(attention), subject, attention)
        if not before:
            raise DoesNotApply(Reason.UPSTREAM_DOES_NOT_RUN)
        ours = initialised(subject, attention)
        _assert_same_weights(ours, upstream)
        for what, inputs, more in calls(subject, attention):
            if what not in before:
                continue
            assert_bitwise(run(ours, inputs, **more), before[what], f"{attention}, {what}")
            assert_bitwise(run(upstream, inputs, **more), before[what], f"upstream after init, {attention}, {what}")
            if what in others:
                note(what)
        assert_same_training_step(ours, upstream, subject, f"{attention}, training")


def _outputs_of_calls(upstream: nn.Module, subject: Subject, attention: Attention) -> dict[str, dict[str, Tensor]]:
    """Of the calls that upstream's own class takes: some heads ask for more than their base model."""
    found = {}
    for what, inputs, more in calls(subject, attention):
        with contextlib.suppress(Exception):
            found[what] = run(upstream, inputs, **more)
    return found


def inactive_is_upstream(subject: Subject, method: Method) -> None:
    """The same with an adapter that was added, and one that was active before."""
    upstream, ours = subject.upstream(), initialised(subject)
    inputs = subject.padded_inputs("left" if subject.text else "none")
    expected = run(upstream, inputs)
    ours.add_adapter(FIRST, config=method.config)
    randomise_adapter(ours, FIRST)
    assert_bitwise(run(ours, inputs), expected, "added, never active")
    ours.set_active_adapters(FIRST)
    assert_differs(run(ours, inputs), expected, "the adapter")
    ours.set_active_adapters(None)
    assert_bitwise(run(ours, inputs), expected, "active before")
    assert_same_training_step(ours, upstream, subject, "training with an inactive adapter")


def calls(subject: Subject, attention: Attention) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The forwards that are compared: a label, inputs and flags."""
    for padding in ("none", "left", "right") if subject.text else ("none",):
        inputs = shaped_for(subject, subject.padded_inputs(padding))
        yield f"padding {padding}", inputs, {}
        if attention == "eager":  # sdpa gives none
            yield f"padding {padding}, with attentions", inputs, {"output_attentions": True}
        labelled = with_labels(subject, inputs)
        if labelled is not None:
            yield f"padding {padding}, with labels", labelled, {}
    for what, inputs in with_other_numbers(subject):
        yield what, inputs, {}


def assert_same_training_step(ours: nn.Module, upstream: nn.Module, subject: Subject, what: str) -> None:
    """One forward and backward pass in training mode, from the same random numbers."""
    inputs = shaped_for(subject, subject.padded_inputs("right" if subject.text else "none"))
    inputs = with_labels(subject, inputs) or inputs
    try:
        theirs = _training_step(upstream, inputs)
    except Exception:  # upstream's own class is not trained on these (a spectrum that is too short to be masked)
        return
    outputs, gradients = zip(_training_step(ours, inputs), theirs, strict=True)
    assert_bitwise(outputs[0], outputs[1], f"{what}: outputs")
    common = {name: gradient for name, gradient in gradients[0].items() if name in gradients[1]}
    assert_bitwise(common, gradients[1], f"{what}: gradients")


def _training_step(model: nn.Module, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.train()
    model.requires_grad_(True)
    model.zero_grad()
    with seeded(3):
        outputs = model(**inputs, **flags(model))
        loss_of(outputs).backward()
    model.eval()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in flatten(outputs).items()}, gradients


def _assert_same_weights(ours: nn.Module, upstream: nn.Module) -> None:
    assert_bitwise(dict(ours.state_dict()), dict(upstream.state_dict()), "weights after init")
