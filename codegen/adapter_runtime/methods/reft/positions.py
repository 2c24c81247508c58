"""Which positions of a call are edited: the first real tokens of each row and the last ones of its prompt.

Everything is index arithmetic on tensors, done once per call: rows differ in their padding and length.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch

from adapter_runtime.call.context import CallSlot, ForwardContext, thread
from adapter_runtime.call.rows import TokenSpans
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.reft.module import EditShape
from adapter_runtime.methods.reft.told import UNTOLD, Told, real_positions

Positions: TypeAlias = "tuple[torch.Tensor, ...] | None"


class Stream(NamedTuple):
    """What a layer gives, as far as ReFT must know."""

    stack: str  # "encoder", "self" or "decoder", whose tokens it belongs to; "" = it is no stream of tokens: images, sounds
    width: int  # H
    tokens_first: bool = False  # something that is no token may stand behind the tokens of a row


class EditedPositions(CallSlot):
    """The positions of the current call, by the tokens, shapes and device that they are for."""

    def __init__(self) -> None:
        self.known: dict[
            tuple[Stream, tuple[EditShape, ...], torch.device], tuple[torch.Size | None, Told, Positions]
        ] = {}


def positions_of(
    stream: Stream, shapes: tuple[EditShape, ...], hidden: torch.Tensor, told: Told = UNTOLD
) -> Positions:
    """Two tensors per shape: the positions [B, P, H] (the same for all of H), and [B, P, 1], True where a row has none.

    Args:
        hidden: [B, L, H].
        told: what the layer is told of padding, which counts where it sees no tokens: the call may have a mask of samples.

    Returns:
        None where nothing is edited: in the later steps of a generation.

    Raises:
        UnsupportedMethodError: the stream has other positions than the tokens, so that it does not show which are real.
    """
    context = thread.context
    if context is None:
        return _of_all(shapes, _all_real(hidden), hidden, False)
    key = (stream, shapes, hidden.device)
    positions: Positions
    known = context.slot(EditedPositions).known
    shape, before, positions = known.get(key, (None, UNTOLD, None))
    told = UNTOLD if stream.stack else told
    is_same = told.mask is before.mask and told.is_named == before.is_named
    if shape != hidden.shape or not is_same:  # not the same for all layers where a model merges tokens on their way
        positions = _in_context(context, stream, shapes, hidden, told)
        known[key] = (hidden.shape, told, positions)
    return positions


def _in_context(
    context: ForwardContext, stream: Stream, shapes: tuple[EditShape, ...], hidden: torch.Tensor, told: Told
) -> Positions:
    real = real_positions(told, *hidden.shape[:2])
    if real is not None:
        return tuple(tensor for shape in shapes for tensor in _of_real(shape, real, hidden))
    # Kosmos-2's own `generate` calls the `generate` of a model inside: no forward of the whole says what a step of it is.
    in_no_forward = context.is_generation and not context.is_in_base and not context.spans
    if stream.stack and (context.is_between_parts or in_no_forward):
        raise UnsupportedMethodError(
            "ReFT edits the first and the last real tokens of a row, which the forward of the model in a model is told, and this one"
            " was called past that forward. Use another method."
        )
    kind = "self" if stream.stack == "decoder" else stream.stack
    spans = context.spans.get(kind)
    if not kind and spans is not None and (len(spans.first), spans.length) != hidden.shape[:2]:
        _check_untold(spans, told, hidden)
        spans = None  # of a mask of something else
    prompt = context.generation.spans.get(kind) if context.generation is not None else None
    if spans is None:  # images, sounds without a mask
        spans, prompt = _all_real(hidden), None
    elif spans.length != hidden.shape[1] and not stream.tokens_first:
        _check_other_length(spans, stream.stack, hidden, is_generation=prompt is not None)
        spans = _all_real(hidden)  # tokens and images in one stream, or tokens that were merged: all are real
    if prompt is None:
        return _of_all(shapes, spans, hidden, spans.past != 0)
    prompted = prompt.past + prompt.length
    # A prompt may be shorter than what is edited, but has at least one token. (Counts of a static cache are tensors.)
    edited = prompted + max(1, *(shape.prefix for shape in shapes)) - 1
    if all(isinstance(count, int) for count in (spans.past, edited)) and spans.past >= edited:
        return None
    return _of_all(shapes, spans, hidden, False, prompted)


def _check_other_length(spans: TokenSpans, stack: str, hidden: torch.Tensor, is_generation: bool) -> None:
    """Raise where a stream that is longer or shorter than its tokens would be edited at the wrong positions."""
    reason = ""
    if stack == "decoder":
        reason = "the layers of a decoder see more than its tokens"
    elif is_generation or bool(spans.past != 0):
        reason = "it goes on after what a cache holds"
    elif bool((spans.first > 0).any() or (spans.end < spans.past + spans.length).any()):
        reason = "rows are padded"
    if reason:
        raise UnsupportedMethodError(
            f"ReFT edits the first and the last real tokens of a row, but the layers see {hidden.shape[1]} positions where there "
            f"are {spans.length} tokens, and {reason}: which positions are real does not show. Use another method."
        )


def _check_untold(spans: TokenSpans, told: Told, hidden: torch.Tensor) -> None:
    """Raise where what a model is called with is padded, and neither its mask nor that of the layer shows which positions are."""
    if told.is_named and told.mask is None:
        return  # upstream found no padding left, or looks for none
    if bool((spans.first > 0).any() or (spans.end < spans.length).any()):
        raise UnsupportedMethodError(
            f"ReFT edits the first and the last real positions of a row, but the layers see {hidden.shape[1]} positions where the mask "
            f"has {spans.length}, and rows are padded: which positions are real does not show. Use another method."
        )


def _all_real(hidden: torch.Tensor) -> TokenSpans:
    first = torch.zeros(hidden.shape[0], dtype=torch.long, device=hidden.device)
    return TokenSpans(first, first + hidden.shape[1], 0, hidden.shape[1])


def _of_all(
    shapes: tuple[EditShape, ...],
    spans: TokenSpans,
    hidden: torch.Tensor,
    is_continued: bool | torch.Tensor,
    prompted: int | torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    pairs = (_of_shape(shape, spans, hidden, is_continued, prompted) for shape in shapes)
    return tuple(tensor for pair in pairs for tensor in pair)


def _of_shape(
    shape: EditShape,
    spans: TokenSpans,
    hidden: torch.Tensor,
    is_continued: bool | torch.Tensor,
    prompted: int | torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions of one shape. In a row too short for both parts, the end has its tokens first, the start the rest.

    Args:
        is_continued: the call goes on after what a cache holds, and what the prompt was is not known: then only the first
            tokens of a row can be told.
        prompted: in a generation, the position after its prompt. Tokens that come later are edited where they are among the
            first ones, as they are when a model is trained on a whole text.
    """
    length = spans.length  # behind these, there are no tokens
    first, end = (tensor.to(hidden.device).unsqueeze(1) for tensor in (spans.first, spans.end))  # (B, 1)
    from_start = first + torch.arange(shape.prefix, device=hidden.device)  # (B, p)
    missing = from_start >= end - shape.suffix * (1 - 1 * is_continued)
    if prompted is not None:
        missing = missing & (from_start < prompted)
    if shape.suffix > 0:
        to_end = end + torch.arange(-shape.suffix, 0, device=hidden.device)  # (B, s)
        from_start = torch.cat([from_start, to_end], dim=1)
        missing = torch.cat([missing, (to_end < first) | is_continued], dim=1)
    index = from_start - spans.past
    missing = missing | (index < 0) | (index >= length)
    index = index.clamp(0, length - 1)
    return index.unsqueeze(-1).expand(-1, -1, hidden.shape[2]), missing.unsqueeze(-1)


def _of_real(shape: EditShape, real: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions of one shape, as `_of_shape`, where padding may stand between real positions too: rows of an image.

    Args:
        real: [B, L], True at real positions.
    """
    real = real.to(hidden.device)
    order = (~real).int().argsort(dim=1, stable=True)  # (B, L): the real positions, then the others
    count = real.sum(dim=1, keepdim=True)  # (B, 1)
    from_start = torch.arange(shape.prefix, device=hidden.device).expand(real.shape[0], -1)  # (B, p)
    to_end = count + torch.arange(-shape.suffix, 0, device=hidden.device)  # (B, s)
    missing = torch.cat([from_start >= count - shape.suffix, to_end < 0], dim=1)
    places = torch.cat([from_start, to_end], dim=1).clamp(0, real.shape[1] - 1)
    return order.gather(1, places).unsqueeze(-1).expand(-1, -1, hidden.shape[2]), missing.unsqueeze(-1)
