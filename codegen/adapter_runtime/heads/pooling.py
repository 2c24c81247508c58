"""One vector per sequence, out of the hidden states of all its tokens."""

from __future__ import annotations

from typing import Literal

import torch

Pooling = Literal["first", "last", "eos", "mean", "rest", "both", "frames"]


def pool(
    hidden_states: torch.Tensor,
    rule: Pooling,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    pad_token_id: int | None = None,
    eos_token_id: int | None = None,
    frame_mask: torch.Tensor | None = None,
    skipped: int = 0,
) -> torch.Tensor:
    """The hidden state that stands for each sequence.

    Args:
        hidden_states: [B, L, H].
        rule: "first" takes the first position, as upstream's encoders do: pad them on the right. "last" takes the last
            real token, padded on either side (decoders, where only that one has seen the sequence). "eos" takes the last
            end-of-sequence token (encoder-decoders). "mean" is the mean of all positions, "rest" of all but the first, "both" has
            the first and beside it the mean of the rest, "frames" is that of those that `frame_mask` marks.
        input_ids: [B, L]; needed for "eos", and for padding where there is no mask. Several books of codes are [B, books, L] or
            [B * books, L]: a position is padding where all of its codes are.
        attention_mask: [B, L], 1 at real tokens. Without it padding is told by `pad_token_id`.
        pad_token_id: of the model's config.
        eos_token_id: of the model's config.
        frame_mask: [B, L], true at frames that are no padding; None = all are none.
        skipped: how many positions behind the first are none of the rest either.

    Returns:
        [B, H]; with "both" [B, 2 * H].

    Raises:
        ValueError: "eos" without token ids, or a sequence without an end-of-sequence token.
    """
    if rule == "first":
        return hidden_states[:, 0]
    if rule == "both":
        return torch.cat([hidden_states[:, 0], _mean(hidden_states[:, 1 + skipped :], None)], dim=-1)
    if rule in ("mean", "rest", "frames"):
        return _mean(
            hidden_states[:, 1 + skipped :] if rule == "rest" else hidden_states,
            frame_mask if rule == "frames" else None,
        )
    marked: torch.Tensor | None
    if rule == "eos":
        marked = _end_tokens(input_ids, eos_token_id)
    else:
        marked = _real_tokens(hidden_states.shape[0], input_ids, attention_mask, pad_token_id)
    if marked is None:
        return hidden_states[:, -1]
    marked = marked[:, -hidden_states.shape[1] :]  # with a cache, the mask also covers what came before
    positions = marked.shape[1] - 1 - marked.flip(-1).int().argmax(dim=-1)
    rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows, positions.to(hidden_states.device)]


def _mean(hidden_states: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
    """The mean [B, H] of those positions of [B, L, H] that count: where [B, L] is true; None = all."""
    if counts is None:
        return hidden_states.mean(dim=1)
    kept = hidden_states.masked_fill(~counts[..., None], 0.0)  # padding may be anything, also not a number
    return kept.sum(dim=1) / counts.sum(dim=1, keepdim=True)


def _real_tokens(
    rows: int, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, pad_token_id: int | None
) -> torch.Tensor | None:
    """[B, L], true at real tokens, for B `rows`; None where nothing tells them from padding."""
    if attention_mask is not None and attention_mask.dim() == 2:
        return attention_mask.bool()
    if input_ids is not None and pad_token_id is not None:
        books = input_ids.reshape(rows, -1, input_ids.shape[-1])  # one of [B, L], several of [B * books, L] (MusicGen)
        return (books != pad_token_id).any(dim=1)
    return None


def _end_tokens(input_ids: torch.Tensor | None, eos_token_id: int | None) -> torch.Tensor:
    """[B, L], true at end-of-sequence tokens."""
    if input_ids is None or eos_token_id is None:
        raise ValueError("Pooling at the end-of-sequence token needs input_ids and an eos_token_id in the config.")
    marked = input_ids == eos_token_id
    if not bool(marked.any(dim=-1).all()):
        raise ValueError(f"Each sequence needs an end-of-sequence token (id {eos_token_id}) for this head.")
    return marked
