"""Tests that run a model twice: by itself and in a batch, as a tuple and as a dict, before and after it was saved."""

from __future__ import annotations

import functools

import torch

from conformance.outputs import run
from conformance.subjects import Subject
from upstream.exempt.conditions import doubled, left_out
from upstream.exempt.table import Exempt, Facts
from upstream.model_tester import outputs_of


def _draws_at_random(facts: Facts) -> bool:
    """Upstream's model draws numbers in evaluation too: two seeds give different things, if only attention weights (Informer). What a
    head does not hand on is not looked at (VibeVoice ASR's states of sounds)."""
    differing = _differing_by_seed(facts.subject, facts.attentions)
    return bool(differing) and bool(differing - left_out(facts))


@functools.cache
def _differing_by_seed(subject: Subject, attentions: bool) -> frozenset[str]:
    """Names of outputs, as of the first of nested ones."""
    inputs = subject.padded_inputs() | ({"output_attentions": True} if attentions else {})
    one, other = (run(subject.upstream(), inputs, seed=seed) for seed in (1, 2))
    differing = (name for name in one if name not in other or not torch.equal(one[name], other[name]))
    return frozenset(name.partition(".")[0] for name in differing)


def _rows_agree_in_double(facts: Facts) -> bool:
    """In double precision upstream's model gives for the first row what it gives for that alone."""
    inputs = {name: doubled(value) for name, value in facts.subject.padded_inputs().items()}
    model = facts.subject.upstream().double().eval()
    try:
        rows, alone = (run(model, {name: value[:end] for name, value in inputs.items()}) for end in (None, 1))
    except (
        RuntimeError,
        ValueError,
        IndexError,
        TypeError,
    ):  # an input of no rows, or weights that are made in single precision
        return False
    floats = [name for name, value in alone.items() if value.is_floating_point() and value.dim()]
    return all(
        rows[name][:1].shape == alone[name].shape and torch.allclose(rows[name][:1], alone[name], atol=1e-9, rtol=1e-9)
        for name in floats
    )


EXEMPT: tuple[Exempt, ...] = (
    Exempt(
        "determinism save_load batching_equivalence model_outputs_equivalence",
        "upstream's model draws numbers in evaluation too",
        "could not be broadcast|yields different results|outputs? are not equal|must match the size of tensor|not less than or equal",
        _draws_at_random,
        of_upstream=True,
    ),
    Exempt(
        "batching_equivalence",
        "rounding grows in upstream's model beyond what its test allows: in double precision it gives for a row what it gives for that alone",
        "outputs are not equal",
        _rows_agree_in_double,
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "batching_equivalence",
        "what upstream's model gives for a row is not that of the row alone: it depends on the others, or on which is longest",
        "outputs are not equal|Batched output has `inf`|must match the size of tensor b",
        lambda facts: not _differing_by_seed(facts.subject, facts.attentions) and not _rows_agree_in_double(facts),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "model_outputs_equivalence",
        "upstream's tower for images keeps no states for its model once that has recorded some itself",
        "'NoneType' object has no attribute 'size'",
        lambda facts: bool(facts.config.sub_configs),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "model_outputs_equivalence",
        "upstream's test subtracts truth values from one another, which a mask among the outputs has",
        "with two bool tensors is not supported",
        lambda facts: any(getattr(value, "dtype", None) == torch.bool for value in outputs_of(facts.subject).values()),
        of_upstream=True,
        word_for_word=True,
    ),
    Exempt(
        "batching_equivalence",
        "upstream's norm over groups takes no single number, which it has for one row of the instance",
        "Expected more than 1 value per channel",
        of_upstream=True,
    ),
)
