"""Losses of heads. All are scalars. Letters of shapes: as in ``heads/__init__``."""

from __future__ import annotations

import torch
from torch.nn import functional

IGNORED = -100  # the label of targets that losses ignore, as everywhere in transformers


def classification_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy; with one output, the squared error of a regression.

    Args:
        logits: [B, C].
        labels: [B], indices of classes or, with one output, values.
    """
    if logits.shape[-1] == 1:
        return functional.mse_loss(logits.reshape(-1), labels.reshape(-1).to(logits.dtype))
    return functional.cross_entropy(logits, labels.reshape(-1))


def multilabel_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy per label. Both arguments are [B, C]."""
    return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def token_loss(logits: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy over tokens, without padding and without those labelled -100.

    Args:
        logits: [B, L, C].
        labels: [B, L].
        attention_mask: [B, L], 1 at real tokens.
    """
    if attention_mask is not None and attention_mask.shape == labels.shape:
        labels = labels.masked_fill(attention_mask == 0, IGNORED)
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def span_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """Mean of the cross entropies of both ends of a span. Positions outside the text are ignored.

    Args:
        start_logits: [B, L].
        end_logits: [B, L].
        starts: [B] or [B, 1], positions of tokens.
        ends: [B] or [B, 1].
    """
    length = start_logits.shape[1]
    losses = []
    for logits, positions in ((start_logits, starts), (end_logits, ends)):
        positions = positions.reshape(-1)
        outside = (positions < 0) | (positions >= length)
        losses.append(functional.cross_entropy(logits, positions.masked_fill(outside, IGNORED), ignore_index=IGNORED))
    return (losses[0] + losses[1]) / 2


def language_modeling_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    shift: bool,
    items: torch.Tensor | int | None = None,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy of the predicted tokens, in fp32.

    Args:
        logits: [B, L, V].
        labels: [B, L]; -100 is ignored.
        shift: position t predicts the label at t + 1, not at t.
        items: labels that count, over all batches whose losses are summed; None = the mean over those of this batch.
        attention_mask: [B, L], 1 at labels that count; None = all do. Of a longer one the end counts: it may begin with what a
            cache holds. One of another shape says nothing of labels.
    """
    length = labels.shape[1]
    if attention_mask is not None and attention_mask.dim() == 2 and attention_mask[:, -length:].shape == labels.shape:
        labels = labels.masked_fill(attention_mask[:, -length:] == 0, IGNORED)
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    if items is None:
        return token_loss(logits.float(), labels)
    flat = logits.float().flatten(0, -2)
    total = functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (items.to(total.device) if isinstance(items, torch.Tensor) else items)


def ctc_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    frame_mask: torch.Tensor | None,
    blank: int,
    is_sum: bool,
    zero_infinity: bool,
) -> torch.Tensor:
    """Connectionist temporal classification, in fp32: minus the log probability of a text, over all ways to align it with frames.

    Args:
        logits: [B, L, V].
        labels: [B, T], tokens; -100 and `blank` are padding.
        frame_mask: [B, L], true at frames that count; None = all.
        blank: the token that stands for nothing.
        is_sum: of the batch; else it is the mean of losses that are divided by the lengths of their texts.
        zero_infinity: texts that are too long for their frames do not count.
    """
    counts = (labels != IGNORED) & (labels != blank)
    whole = torch.full((logits.shape[0],), logits.shape[1], device=logits.device)
    lengths = whole if frame_mask is None else frame_mask.sum(dim=-1)
    log_probabilities = functional.log_softmax(logits, dim=-1, dtype=torch.float32).transpose(0, 1)  # [L, B, V]
    with torch.backends.cudnn.flags(enabled=False):  # which differs in what it takes, and is not deterministic
        return functional.ctc_loss(
            log_probabilities,
            labels.masked_select(counts),
            lengths,
            counts.sum(dim=-1),
            blank=blank,
            reduction="sum" if is_sum else "mean",
            zero_infinity=zero_infinity,
        )
