"""Attention masks that grow with the keys. A prefix is visible to every query, padded or not."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad

from adapter_runtime.context import thread
from adapter_runtime.errors import UnsupportedMethodError

# Implementations whose masks we know how to grow. None: a module that was built outside of a model.
BACKENDS = ("eager", "sdpa", None)


def check_backend(core: Any) -> None:
    """Raise where the attention implementation of a core cannot honour a prefix.

    Raises:
        UnsupportedMethodError: its kernel reads masks of another form, or lengths.
    """
    backend = getattr(getattr(core, "config", None), "_attn_implementation", None)
    if backend not in BACKENDS:
        raise UnsupportedMethodError(
            f"Prefix tuning does not work with the attention implementation {backend!r}. "
            'Choose another: model.set_attn_implementation("sdpa") or "eager".'
        )


def grow(
    core: Any, mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, length: int, is_causal: bool
) -> torch.Tensor | None:
    """The mask for keys with a prefix of `length` in front; computed once for all layers that share a mask.

    Args:
        mask: [..., Q, K], boolean (True = visible), additive float, or integer (1 = visible).
        key: [B, heads, K, width], without the prefix.
        is_causal: whether the kernel hides later keys by itself where there is no mask.
    """
    shape = (length, query.shape[-2], key.shape[-2])
    if mask is None and not _needs_mask(core, shape[1], is_causal):
        return None
    context = thread.context
    if context is not None and context.mask is mask and context.mask_shape == shape:
        known = context.grown_mask
        if known is not None and known.device == key.device:  # layers may lie on several devices
            return known
    grown = _causal(shape, key.device) if mask is None else _grow(mask, length, shape[2])
    if context is not None:
        context.mask, context.mask_shape, context.grown_mask = mask, shape, grown
    return grown


def _needs_mask(core: Any, queries: int, is_causal: bool) -> bool:
    """Whether the kernel would make a causal mask of its own: sdpa does, counting from the first key, prefix or not."""
    backend = getattr(getattr(core, "config", None), "_attn_implementation", None)
    return is_causal and queries > 1 and backend != "eager"


def _causal(shape: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """[1, 1, Q, P + K]: the prefix and no later key."""
    length, queries, keys = shape
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
    return pad(visible, (length, 0), value=True)[None, None]


def _grow(mask: torch.Tensor, length: int, keys: int) -> torch.Tensor:
    if mask.shape[-1] != keys:
        if mask.shape[-1] == 1:  # the same for all keys: nothing to grow, and nothing that could hide the prefix alone
            return mask
        raise UnsupportedMethodError(
            f"Prefix tuning needs a mask with one column per key, but there are {mask.shape[-1]} columns and {keys} keys."
        )
    return pad(mask, (length, 0), value=0.0 if mask.dtype.is_floating_point else 1)


def grow_bias(bias: torch.Tensor, length: int) -> torch.Tensor:
    """[..., Q, K] -> [..., Q, P + K], zeros in front."""
    return bias if bias.shape[-1] == 1 else pad(bias, (length, 0))
