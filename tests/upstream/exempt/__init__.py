"""Tests of upstream's that do not run on AdapterModels, or cannot hold, each with its reason.

An entry names tests and what a model must be for the entry to speak of it. Where it does, the test must be skipped by upstream, or
fail, with the words that the entry expects: an entry that no longer holds fails.

Where does an entry go? Into the file of the kind of tests that it names:

elsewhere    other machines, other classes
attention    kinds of attention, and attention weights
compared     one way to compute against another
outputs      one run against another
states       hidden states, and what captures them
gradients    losses, ways back, layers that are computed again
weights      initialised, kept, named in files, divided
embeddings   the table of tokens

`table` says what an entry is; `conditions` holds what several of these ask about a model.
"""

from __future__ import annotations

from upstream.exempt import attention, compared, elsewhere, embeddings, gradients, outputs, states, weights
from upstream.exempt.table import Exempt, Facts

# The first that speaks of a test of a model counts.
EXEMPT: tuple[Exempt, ...] = (
    *elsewhere.EXEMPT,
    *attention.EXEMPT,
    *compared.EXEMPT,
    *outputs.EXEMPT,
    *states.EXEMPT,
    *gradients.EXEMPT,
    *weights.EXEMPT,
    *embeddings.EXEMPT,
)


def exempt(name: str, facts: Facts) -> Exempt | None:
    """The first entry for the test of this name."""
    return next((entry for entry in EXEMPT if entry.covers(name, facts)), None)
