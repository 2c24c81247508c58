"""Prefix tuning (https://arxiv.org/abs/2101.00190) on upstream, in two ways that share no code.

`prefix_applied` replaces upstream's attention function by one that puts the prefix in front; it serves every model that
calls the attention interface, with or without a cache. `filled_cache` needs no replacement: upstream's own cache, filled
with the prefix in advance, is what a prefix means in a decoder.

Letters of shapes: B batch, P prefix, L tokens, K key heads, D width of a head, N attention cores of one kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from conformance.methods import Prefix
from conformance.reference.layout import Attention, Layout, features, join
from conformance.reference.together import Together, only_in_turn

IMPLEMENTATION = "conformance_reference"


def location_of(attention: Attention) -> str:
    """Name under which a checkpoint stores the prefix of an attention core."""
    if attention.kind == "cross":
        return "cross_prefix"
    return "encoder_prefix" if attention.in_encoder else "self_prefix"


def prefix_states(
    layout: Layout, part: Prefix, name: str, weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Keys and values (1, K, P, D) of adapter `name` per path of an attention core.

    Args:
        shapes: path of a core -> (K, D).
    """
    states = {}
    by_location: dict[str, list[Attention]] = {}
    for attention in layout.attentions:
        by_location.setdefault(location_of(attention), []).append(attention)
    for location, attentions in by_location.items():
        prefix = join(layout.base, f"prefix_tuning.prefix_tunings.{name}.{location}")
        heads, width = shapes[attentions[0].core]
        flat = _flat_states(part, prefix, weights).view(part.length, len(attentions) * 2, heads, width)
        per_core = flat.permute(1, 2, 0, 3)[:, None]  # (P, 2N, K, D) -> (2N, 1, K, P, D)
        for index, attention in enumerate(attentions):
            states[attention.core] = (per_core[2 * index], per_core[2 * index + 1])
    return states


def _flat_states(part: Prefix, prefix: str, weights: Mapping[str, Tensor]) -> Tensor:
    if part.flat:
        return weights[f"{prefix}.control_trans"]
    hidden = weights[f"{prefix}.wte.weight"] @ weights[f"{prefix}.control_trans.0.weight"].T
    hidden = torch.tanh(hidden + weights[f"{prefix}.control_trans.0.bias"])
    return hidden @ weights[f"{prefix}.control_trans.2.weight"].T + weights[f"{prefix}.control_trans.2.bias"]


@contextlib.contextmanager
def prefix_applied(
    upstream: nn.Module,
    layout: Layout,
    prefixes: Sequence[tuple[str, Prefix]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """The attention cores of `upstream` see the prefixes in front; a later adapter of the list stands before an earlier."""
    only_in_turn("prefixes", together)
    before = upstream.config._attn_implementation
    modules = {attention.core: upstream.get_submodule(attention.core) for attention in layout.attentions}
    shapes = {path: key_shape(upstream, attention) for path, attention in _by_core(layout).items()}
    upstream.set_attn_implementation(IMPLEMENTATION)
    for name, part in prefixes:
        for path, states in prefix_states(layout, part, name, weights, shapes).items():
            modules[path].conformance_prefixes = [states, *getattr(modules[path], "conformance_prefixes", [])]
    try:
        yield
    finally:
        for module in modules.values():
            module.__dict__.pop("conformance_prefixes", None)
        upstream.set_attn_implementation(before)


def filled_cache(
    upstream: nn.Module, layout: Layout, part: Prefix, name: str, weights: Mapping[str, Tensor], batch: int
) -> DynamicCache:
    """Upstream's cache as if P tokens with these keys and values had gone before."""
    shapes = {path: key_shape(upstream, attention) for path, attention in _by_core(layout).items()}
    cache = DynamicCache(config=upstream.config)
    for index, (key, value) in enumerate(prefix_states(layout, part, name, weights, shapes).values()):
        cache.update(key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1), index)
    return cache


def key_shape(upstream: nn.Module, attention: Attention) -> tuple[int, int]:
    """(K, D) of a core: the outputs of the key projection, and the width that its queries have per head."""
    if attention.fused:
        total, _ = features(upstream.get_submodule(attention.fused))
        _, queries = features(upstream.get_submodule(attention.output))
        rows = (total - queries) // 2
    else:
        rows = upstream.get_submodule(attention.key).weight.shape[0]
    config = upstream.config
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = width or config.hidden_size // config.num_attention_heads
    return rows // width, width


def _by_core(layout: Layout) -> dict[str, Attention]:
    return {attention.core: attention for attention in layout.attentions}


def reference_attention(
    module: nn.Module,
    query: Tensor,  # (B, heads, L, D)
    key: Tensor,  # (B, K, S, D)
    value: Tensor,
    attention_mask: Tensor | None,  # additive, (B or 1, 1, L, S)
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attention written out, with the prefixes that `prefix_applied` left on `module` in front of keys, values and mask."""
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("the reference attention does not know attention sinks")
    position_bias = kwargs.get("position_bias")  # (1 or B, heads, L, S), which a prefix has none of
    for prefix_key, prefix_value in getattr(module, "conformance_prefixes", []):
        key = torch.cat([prefix_key.expand(key.shape[0], -1, -1, -1), key], dim=2)
        value = torch.cat([prefix_value.expand(value.shape[0], -1, -1, -1), value], dim=2)
        if attention_mask is not None:
            seen = attention_mask.new_zeros(*attention_mask.shape[:-1], prefix_key.shape[2])
            attention_mask = torch.cat([seen, attention_mask], dim=-1)
        if position_bias is not None:
            position_bias = nn.functional.pad(position_bias, (prefix_key.shape[2], 0))
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if (softcap := kwargs.get("softcap")) is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = torch.nn.functional.dropout(scores.softmax(dim=-1), p=dropout, training=module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


AttentionInterface.register(IMPLEMENTATION, reference_attention)
AttentionMaskInterface.register(IMPLEMENTATION, eager_mask)
