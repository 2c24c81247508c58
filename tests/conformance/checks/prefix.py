"""A prefix is what upstream computes with a cache that was filled with the prefix's keys and values in advance."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from conformance.adapted import FIRST, adapted, initialised
from conformance.methods import Method, Prefix
from conformance.outputs import are_close, assert_differs, assert_equal_within, at_tokens, run
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.reference.prefix import filled_cache, turn_of_keys
from conformance.subjects import BATCH, LENGTH, Subject, attentions


def prefix_is_cache(subject: Subject, method: Method) -> None:
    """Positions count from 0, and the mask extends over the prefix; eager and sdpa, with and without left padding.

    Where upstream counts from the end of the cache on, the keys in the cache are turned as it turns those of the tokens.
    """
    part = method.parts[0]
    assert isinstance(part, Prefix)
    if not _caches_keys(subject):
        raise DoesNotApply(Reason.NO_CACHE)
    for attention in attentions(subject):
        ours, upstream = adapted(subject, method, attention), subject.upstream(attention)
        fill = functools.partial(filled_cache, upstream, layout_of(ours), part, FIRST, ours.state_dict(), BATCH)
        turn = turn_of_keys(upstream, fill(), positioned(subject.padded_inputs()))
        for padding in ("none", "left"):
            inputs = positioned(subject.padded_inputs(padding))
            mask = inputs.get("attention_mask")
            extended = with_prefix_in_mask(inputs, part.length)
            expected = at_tokens(run(upstream, extended, past_key_values=fill(turn)), mask)
            assert_differs(expected, at_tokens(run(upstream, inputs), mask), "the prefix")
            actual = at_tokens(run(ours, inputs), mask)
            if not are_close(actual, expected) and counts_from_its_cache(upstream, inputs, fill()):
                raise DoesNotApply(Reason.COUNTS_FROM_CACHE)
            assert_equal_within(actual, expected, f"{attention}, padding {padding}")


def counts_from_its_cache(upstream: PreTrainedModel, inputs: dict[str, Any], cache: DynamicCache) -> bool:
    """A cache that no token sees changes upstream's outputs: positions go on after it, whatever they are given as."""
    mask = inputs.get("attention_mask")
    length = cache.get_seq_length()
    tokens = mask if mask is not None else torch.ones(BATCH, _length(inputs), dtype=torch.long)
    unseen = {**inputs, "attention_mask": torch.cat([tokens.new_zeros(BATCH, length), tokens], dim=1)}
    return not are_close(
        at_tokens(run(upstream, unseen, past_key_values=cache), mask), at_tokens(run(upstream, inputs), mask)
    )


def _caches_keys(subject: Subject) -> bool:
    """The cache of upstream holds the keys that all cores see, and not what they are made of."""
    ours = initialised(subject)
    ours.add_adapter(FIRST, config="prefix_tuning_flat")
    shapes = layout_of(ours).prefix_shapes
    heads = {key_heads for key_heads, _, _ in shapes.values()}
    upstream = subject.upstream()
    cache = DynamicCache(config=upstream.config)
    runs = _count_runs(upstream, shapes)
    try:
        with torch.no_grad():
            cache = upstream(**subject.padded_inputs(), use_cache=True, past_key_values=cache).past_key_values
    except ValueError:  # it takes none but a cache of its own
        return False
    cache = getattr(cache, "self_attention_cache", cache)
    if len(shapes) > len(cache.layers):  # some cores read images
        return False
    if any(count > 1 for count in runs.values()):  # HRM's run in cycles, each with its own place in the cache
        return False
    keys = [getattr(layer, "keys", None) for layer in cache.layers]  # a layer with linear attention has none
    return all(one is not None and one.dim() == 4 and one.shape[1] in heads for one in keys)


def _count_runs(model: nn.Module, cores: Iterable[str]) -> Counter[str]:
    """How often each core runs in what `model` does next."""
    runs: Counter[str] = Counter()
    for path in cores:
        model.get_submodule(path).register_forward_pre_hook(lambda module, args, path=path: runs.update([path]))
    return runs


def positioned(inputs: dict[str, Any]) -> dict[str, Any]:
    """`inputs` with positions that count from 0, whatever a cache holds."""
    return {**inputs, "position_ids": torch.arange(_length(inputs)).repeat(BATCH, 1)}


def _length(inputs: dict[str, Any]) -> int:
    """How many tokens each row has: images may have their places among them."""
    tokens = inputs.get("input_ids")
    return LENGTH if tokens is None else tokens.shape[1]


def with_prefix_in_mask(inputs: dict[str, Any], length: int) -> dict[str, Any]:
    mask = inputs.get("attention_mask")
    if mask is None:
        return inputs
    return {**inputs, "attention_mask": torch.cat([mask.new_ones(BATCH, length), mask], dim=1)}
