"""Prefix tuning (https://arxiv.org/abs/2101.00190) on upstream, in two ways that share no code.

`prefix_applied` watches upstream's products and softmaxes, and lets the softmax see the scores of a prefix too; it serves every
model whose attention is written so, in its own forward or in upstream's eager function. `filled_cache` needs no replacement: upstream's own cache, filled
with the prefix in advance, is what a prefix means in a decoder.

Letters of shapes: B batch, P prefix, L tokens, K key heads, D width of a head, N attention cores of one kind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel

from conformance.methods import Prefix
from conformance.reference.cores import CoreWatch
from conformance.reference.layout import Attention, Layout, features, join
from conformance.reference.together import Together, only_in_turn

Shape = tuple[int, int, int]


def location_of(attention: Attention) -> str:
    """Name under which a checkpoint stores the prefix of an attention core."""
    own = "encoder" if attention.in_encoder else "self"
    location = f"{'cross' if attention.kind == 'cross' else own}_prefix"
    return f"{attention.tower}_{location}" if attention.tower else location


def prefix_key(attention: Attention, name: str) -> str:
    """Under which a checkpoint stores the prefix of an attention core and of its siblings: each part has its own."""
    return join(attention.part, f"prefix_tuning.prefix_tunings.{name}.{location_of(attention)}")


def prefix_states(
    layout: Layout, part: Prefix, name: str, weights: Mapping[str, Tensor], shapes: Mapping[str, Shape]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Keys and values (1, K, P, D) of adapter `name` per path of an attention core.

    Args:
        shapes: path of a core -> (K, D of keys, D of values).
    """
    states = {}
    by_key: dict[str, list[Attention]] = {}
    for attention in layout.prefixed:
        by_key.setdefault(prefix_key(attention, name), []).append(attention)
    for prefix, attentions in by_key.items():
        sizes = [shapes[one.core][0] * width for one in attentions for width in shapes[one.core][1:]]
        # Of each position, keys and values alternate from core to core.
        columns = _flat_states(part, prefix, weights).view(part.length, -1).split(sizes, dim=1)
        for index, attention in enumerate(attentions):
            heads = shapes[attention.core][0]
            pair = (
                column.reshape(part.length, heads, -1).transpose(0, 1)[None] for column in columns[2 * index :][:2]
            )
            key, value = pair  # (P, K * D) -> (1, K, P, D)
            states[attention.core] = (key, value)
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
    adapters: Sequence[tuple[str, Prefix]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """The attention cores of `upstream` see the prefixes in front; a later adapter of the list stands before an earlier."""
    only_in_turn("prefixes", together)
    shapes = shapes_of(upstream, layout)
    prefixes: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, part in adapters:
        for path, states in prefix_states(layout, part, name, weights, shapes).items():
            prefixes[path] = [states, *prefixes.get(path, [])]
    before = upstream.config._attn_implementation
    if before != "eager":  # in any other, the softmax is not to be seen
        upstream.set_attn_implementation("eager")
    watch = CoreWatch(upstream, list(prefixes), prefixes)
    try:
        with watch:
            yield
    finally:
        watch.remove()
        if before != "eager":
            upstream.set_attn_implementation(before)
    if missing := sorted(core for core in set(prefixes) - watch.served if watch.has_run(core)):
        raise AssertionError(f"no softmax over products was seen in {missing}")


def filled_cache(
    upstream: nn.Module,
    layout: Layout,
    part: Prefix,
    name: str,
    weights: Mapping[str, Tensor],
    batch: int,
    turn: Tensor | None = None,
) -> DynamicCache:
    """Upstream's cache as if P tokens with these keys and values had gone before.

    Args:
        turn: see `turn_of_keys`.
    """
    shapes = shapes_of(upstream, layout)
    cache = DynamicCache(config=upstream.config)
    for order, (core, (key, value)) in enumerate(prefix_states(layout, part, name, weights, shapes).items()):
        index = getattr(upstream.get_submodule(core), "layer_idx", order)  # some layers of a hybrid have none
        key = key if turn is None else key @ turn
        cache.update(key.expand(batch, -1, -1, -1), value.expand(batch, -1, -1, -1), index)
    return cache


def turn_of_keys(upstream: nn.Module, filled: DynamicCache, inputs: Mapping[str, Any]) -> Tensor | None:
    """What upstream does to the keys of all tokens because a cache holds something: a matrix (D, D); None = nothing.

    A model with rotary positions that takes no ``position_ids`` (RoFormer) counts its tokens from the end of the cache on. Queries are
    turned likewise, so a prefix that is turned as well has the same scores as in front of tokens that are counted from 0.

    Args:
        filled: a cache, to which the tokens of `inputs` are added.
        inputs: of a forward, without a mask.
    """
    before = _keys_of_tokens(upstream, DynamicCache(config=upstream.config), inputs)
    after = _keys_of_tokens(upstream, filled, inputs)
    if before.shape != after.shape or torch.allclose(before, after, atol=1e-6):
        return None
    turn = torch.linalg.lstsq(before, after).solution
    is_rotation = torch.allclose(turn @ turn.mT, torch.eye(len(turn)), atol=1e-3)
    return turn if is_rotation and torch.allclose(before @ turn, after, atol=1e-4) else None


def _keys_of_tokens(upstream: nn.Module, cache: DynamicCache, inputs: Mapping[str, Any]) -> Tensor:
    """(B * K * L, D), of the first layer, whose inputs depend on no cache."""
    past = cache.get_seq_length()
    with torch.no_grad():
        upstream(**inputs, past_key_values=cache, use_cache=True)
    return cache.layers[0].keys[:, :, past:].flatten(0, 2)


def shapes_of(upstream: nn.Module, layout: Layout) -> dict[str, Shape]:
    """(K, D of keys, D of values) of each core: those of our prefixes, where the layout knows them, else from the config."""
    return {one.core: layout.prefix_shapes.get(one.core) or key_shape(upstream, one) for one in layout.prefixed}


def key_shape(upstream: nn.Module, attention: Attention) -> Shape:
    """From the outputs of the key projection, and the width that its queries have per head."""
    if attention.fused:
        total, _ = features(upstream.get_submodule(attention.fused))
        _, queries = features(upstream.get_submodule(attention.output))
        rows = (total - queries) // 2
    else:
        rows = upstream.get_submodule(attention.key).weight.shape[0]
    config = _config_around(upstream, attention.core)
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = width or config.hidden_size // config.num_attention_heads
    return rows // width, width, width


def _config_around(upstream: nn.Module, path: str) -> PreTrainedConfig:
    """The config of the nearest model around a module."""
    while not isinstance(module := upstream.get_submodule(path), PreTrainedModel):
        path = path.rpartition(".")[0]
    return module.config
