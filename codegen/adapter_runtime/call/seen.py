"""Which tokens a cache holds. One of attention says how many; that of a recurrence has to be told.

Attention has a place for each token. A recurrence (Mamba) keeps one state, in which no number of tokens shows, while the first tokens of a
later call are not the first ones of their rows. So such a cache is told what it has seen, on the object itself: copies have it too, and rows that
beams exchange are of one text, and padded alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin
from transformers.utils import ModelOutput

from adapter_runtime.call.arguments import Argument, Outputs, tokens_among
from adapter_runtime.call.rows import mask_of_keys
from adapter_runtime.errors import UnsupportedMethodError

_SEEN = "_seen_with_adapters"  # the attribute of a cache


@dataclass(frozen=True)
class SeenTokens:
    """What the states of a recurrence were made of.

    Attributes:
        mask: as a call takes one, of all L tokens; None where all are real.
        tokens: L.
        prompt: how many positions stood in front of them.
    """

    mask: Argument
    tokens: int
    prompt: int


def cache_among(given: Mapping[str, Argument]) -> Cache | None:
    """The cache among the arguments of a call; None without one. (Recurrences call it otherwise.)"""
    values = (given.get("past_key_values"), *given.values())
    return next((value for value in values if isinstance(value, Cache)), None)


def keeps_states(cache: Cache) -> bool:
    """Whether a cache has layers, and none of them a place for each token."""
    if isinstance(cache, EncoderDecoderCache):  # two caches, without layers of its own
        return False
    return len(cache.layers) > 0 and not any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)


def past_positions(given: Mapping[str, Argument]) -> int | torch.Tensor:
    """How many positions the cache among the arguments of a call holds. A static one counts in a tensor, to which layers add.

    Raises:
        UnsupportedMethodError: it is that of a recurrence, and was not told.
    """
    cache = cache_among(given)
    if cache is None:
        return 0
    if not keeps_states(cache):
        count: int | torch.Tensor = cache.get_seq_length()
        return count
    seen = _seen_by(cache)
    return 0 if seen is None else seen.tokens + seen.prompt


def seen_with(given: Mapping[str, Argument], prompt: int) -> SeenTokens | None:
    """What the cache of a recurrence will have seen after a call; None where the cache says itself how much it holds.

    Upstream masks the new tokens of a recurrence alone, or gives it no mask at all in later calls.

    Args:
        given: the arguments of the call.
        prompt: how many positions it puts in front of the tokens, if it is the first.

    Raises:
        UnsupportedMethodError: the cache was not told, or has other rows.
    """
    cache = cache_among(given)
    new = tokens_among(given)
    if new is None or (cache is not None and not keeps_states(cache)):
        return None
    rows, length = new.shape[:2]
    mask = given.get("attention_mask")
    before = None if cache is None else _seen_by(cache)
    if before is None:
        return SeenTokens(mask, length, prompt)
    old, mask = mask_of_keys(before.mask), mask_of_keys(mask)
    total = before.tokens + length
    if old is not None and old.shape[0] != rows:
        raise UnsupportedMethodError(
            f"The cache keeps states of {old.shape[0]} rows, and the call has {rows}: which of them are padded does not show. Begin with"
            " an empty cache."
        )
    if old is None and mask is None:
        return SeenTokens(None, total, before.prompt)
    old = torch.ones(rows, before.tokens, dtype=torch.long, device=new.device) if old is None else old
    mask = old.new_ones(rows, length) if mask is None else mask[:, -length:].to(old)
    return SeenTokens(torch.cat([old, mask], dim=1), total, before.prompt)


def tell_cache(seen: SeenTokens, given: Mapping[str, Argument], outputs: Outputs) -> None:
    """Tell the cache of a recurrence, which may be a new one among the outputs of a call, what it has seen."""
    values = outputs.values() if isinstance(outputs, ModelOutput) else outputs
    cache = cache_among(given) or next((value for value in values if isinstance(value, Cache)), None)
    if cache is not None and keeps_states(cache):
        setattr(cache, _SEEN, seen)


def _seen_by(cache: Cache) -> SeenTokens | None:
    """What the cache of a recurrence was told that it has seen; None where it has no state."""
    if not cache.has_previous_state():
        return None
    seen: SeenTokens | None = getattr(cache, _SEEN, None)
    if seen is None:
        raise UnsupportedMethodError(
            "An active adapter acts at the first or the last tokens of each row, and where these are does not show in the states of this cache:"
            " they were made while no such adapter was active. Begin with an empty cache."
        )
    return seen
