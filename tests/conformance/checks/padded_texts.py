"""A row of text with an image or a sound in it gives at its tokens what it gives by itself, where it is padded.

As in a batch that a processor makes, one row is longer, and all others are padded to its length: on the left or on the right. On which
sides, with which other inputs grown along (types, masks over places of images) and whether with positions, is what upstream itself is
not moved by.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from conformance.adapted import adapted
from conformance.compared import note
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import Method, Prefix, Prompt, positions_in_front
from conformance.outputs import are_close, assert_differs, assert_equal_within, at_tokens, main_outputs, run
from conformance.prompts import MASK, TOKENS, are_placeholders, generating, plain_tokens
from conformance.reasons import DoesNotApply, Reason
from conformance.subjects import Attention, Subject, attentions, takes

ROOM = 3  # places by which one row is longer
POSITIONS = "position_ids"
Side = Literal["left", "right"]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Way:
    """How rows are padded so that upstream's own outputs stay."""

    side: Side
    along: frozenset[str]  # inputs beside tokens and mask that have a place per token, and grow
    positions: bool  # they are given, counted from the first real token
    noise: bool  # any tokens stand in padded places, and not the one for padding: some tell padding by that
    names: frozenset[str] = frozenset()  # outputs that depend on the text and stay as they are

    def __str__(self) -> str:
        return ", ".join((self.side, *sorted(self.along), *(("position_ids",) if self.positions else ())))


def padded_texts_are_as_alone(subject: Subject, method: Method) -> None:
    """On each side on which upstream's own rows are."""
    subject = generating(subject) or subject
    if not any(ways_of(subject, attention) for attention in attentions(subject)):
        raise DoesNotApply(Reason.UPSTREAM_SEES_PADDING)
    for attention in attentions(subject):
        model = adapted(subject, method, attention)
        for way in ways_of(subject, attention):
            _assert_same(model, subject, way, method, f"{attention}, padding {way.side}")
            note(str(way))
        alone = subject.padded_inputs()
        assert_differs(run(model, alone), run(subject.upstream(attention), alone), "the adapter")


def reads_padded_texts(subject: Subject) -> bool:
    """It reads tokens with something beside them, and a mask says which tokens are real."""
    if subject.text:
        return False
    tokens = subject.padded_inputs().get(TOKENS)
    return isinstance(tokens, Tensor) and tokens.dim() == 2 and len(tokens) > 1 and takes(subject, MASK)


@functools.cache
def ways_of(subject: Subject, attention: Attention) -> tuple[Way, ...]:
    """For each side the first way in which most of upstream's outputs stay."""
    found = []
    for side in ("left", "right"):
        tried = [upstream_stays(subject, attention, way) for way in _candidates(subject, side)]
        best = max(tried, key=lambda way: len(way.names), default=None)
        if best is not None and best.names:
            found.append(best)
    return tuple(found)


def _candidates(subject: Subject, side: Side) -> Iterator[Way]:
    inputs = subject.padded_inputs()
    shape = inputs[TOKENS].shape
    alike = {name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape[:2] == shape}
    beside = sorted(alike - {TOKENS, MASK, POSITIONS, "decoder_input_ids"})
    for count in range(len(beside), -1, -1):
        for along in map(frozenset, itertools.combinations(beside, count)):
            for positions in (True, False) if takes(subject, POSITIONS) else (False,):
                for noise in (True, False):
                    yield Way(side, along, positions, noise)


def upstream_stays(subject: Subject, attention: Attention, way: Way) -> Way:
    """`way` with the names of upstream's outputs that depend on the text, and are the same for padded rows."""
    try:
        alone, padded = both(subject, way)
        upstream = subject.upstream(attention)
        ours, theirs = (_read(run(upstream, given), given, subject) for given in (alone, padded))
        other = _read(run(upstream, _with_other_tokens(subject, alone)), alone, subject)
    except Exception:  # whatever upstream raises on inputs that it does not take so
        return way
    same = {name for name in ours if name in theirs and are_close({name: ours[name]}, {name: theirs[name]})}
    same -= {name for name in same if are_close({name: ours[name]}, {name: other[name]})}
    return replace(way, names=frozenset(same))


def both(subject: Subject, way: Way) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of the rows as they are, and with `ROOM` places more, in which the first row goes on and all others are padded."""
    alone = {name: value for name, value in subject.padded_inputs().items() if name != POSITIONS}
    tokens = alone[TOKENS]
    alone.setdefault(MASK, torch.ones_like(tokens))
    more = _plain(subject, ROOM, 6, len(tokens))
    mask = torch.zeros_like(more, dtype=alone[MASK].dtype)
    mask[0] = 1
    if not way.noise:
        pad = getattr(subject.config().get_text_config(), "pad_token_id", None)
        more[1:] = pad if isinstance(pad, int) else 0
    padded = dict(alone)
    for name in (TOKENS, MASK, *way.along):
        value = alone[name]
        nothing = value.new_zeros(len(value), ROOM, *value.shape[2:])
        beside = {TOKENS: more, MASK: mask}.get(name, nothing).to(value.dtype)
        padded[name] = torch.cat([beside, value] if way.side == "left" else [value, beside], dim=1)
    given = (alone, padded)
    if way.positions:
        for inputs in given:
            inputs[POSITIONS] = (inputs[MASK].cumsum(-1) - 1).clamp(min=0).long()
    return given


def _with_other_tokens(subject: Subject, inputs: dict[str, Any]) -> dict[str, Any]:
    tokens = inputs[TOKENS]
    other = _plain(subject, tokens.shape[1], 9, len(tokens))
    return {**inputs, TOKENS: torch.where(are_placeholders(subject, tokens), tokens, other)}


def _plain(subject: Subject, length: int, seed: int, rows: int) -> Tensor:
    """(rows, length)"""
    tokens = plain_tokens(subject, length, seed)
    return tokens.repeat(-(-rows // len(tokens)), 1)[:rows].clone()


def _read(outputs: Outputs, inputs: dict[str, Any], subject: Subject, in_front: int = 0) -> Outputs:
    """What belongs to the padded rows: at their tokens, also in what a model inside gave, and where these follow an image (GIT); of what an
    encoder-decoder or a pooled output gives for a row, all."""
    mask = inputs[MASK].bool().clone()
    mask[0] = False
    at = {} if subject.kind == "encoder-decoder" else at_tokens(outputs, mask, in_front)
    if at:
        return at
    is_decoder = subject.kind != "encoder-decoder"
    length = mask.shape[1]
    rows = {name: value for name, value in main_outputs(outputs).items() if value.dim() and len(value) == len(mask)}
    return {
        name: value[:, -length:][mask] if is_decoder and value.dim() > 2 and value.shape[1] >= length else value[1:]
        for name, value in rows.items()
    }


def _assert_same(model: nn.Module, subject: Subject, way: Way, method: Method, what: str) -> None:
    in_front = positions_in_front(method.parts)
    pair = _compared(subject, way, method)

    def compare(is_double: bool) -> None:
        running = copy.deepcopy(model).double() if is_double else model
        read = []
        for given in pair:
            outputs = _read(run(running, doubled(given) if is_double else given), given, subject, in_front)
            read.append({name: value for name, value in outputs.items() if name in way.names})
        bound = IN_DOUBLE if is_double else 1.0
        assert_equal_within(read[1], read[0], f"{what}: rows with more than text", 2e-5 * bound, 1e-4 * bound)

    in_either_precision(compare)


def _compared(subject: Subject, way: Way, method: Method) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two inputs that must give the same: rows as they are, and padded.

    The keys of a prefix stand at no position, and a prompt in front of the padding. Where no positions are given, a model counts those of its
    tokens from the padding on the left, and is as far from its prefix as there is padding, of whatever tokens.
    """
    alone, padded = both(subject, way)
    stands_in_front = method.has(Prefix) or method.has(Prompt)
    if way.side == "right" or way.positions or not way.noise or not stands_in_front:
        return alone, padded
    return padded, {**padded, TOKENS: torch.where(padded[MASK].bool(), padded[TOKENS], padded[TOKENS].roll(1, dims=0))}
