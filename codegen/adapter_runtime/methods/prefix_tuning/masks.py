"""Attention masks that grow with the keys. A prefix is visible to every query of its rows, padded or not."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol

import torch
from torch import nn
from torch.nn.functional import pad

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import thread
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prefix_tuning.call import GrownMask, PrefixSlot

# Implementations whose masks we know how to grow. None: a module that was built outside of a model.
BACKENDS = ("eager", "sdpa", None)


class Prefixes(Protocol):
    """What masks must know of the prefixes of an attention: see `PrefixNode`."""

    length: int
    layout: tuple[Hashable, ...]

    def visible(self, rows: torch.Tensor) -> torch.Tensor | None: ...


def _backend(core: nn.Module) -> str | None:
    return getattr(getattr(core, "config", None), "_attn_implementation", None)


def check_backend(core: nn.Module) -> None:
    """Raise where the attention implementation of a core cannot honour a prefix.

    Raises:
        UnsupportedMethodError: its kernel reads masks of another form, or lengths.
    """
    backend = _backend(core)
    if backend not in BACKENDS:
        raise UnsupportedMethodError(
            f"Prefix tuning does not work with the attention implementation {backend!r}. "
            'Choose another: model.set_attn_implementation("sdpa") or "eager".'
        )


def hides_later_keys(core: nn.Module, stated: Argument) -> bool:
    """Whether the kernel of a core hides later keys by itself where it gets no mask.

    Only transformers' sdpa reads a core's attribute ``is_causal``. A core that is not known to call it (it has no config) adds
    up its scores, and what it got no mask for, it sees.

    Args:
        stated: the keyword ``is_causal`` of the call; None = it has none.
    """
    if stated is not None:
        return bool(stated)
    return _backend(core) == "sdpa" and bool(getattr(core, "is_causal", True))


# How many are kept: models have few kinds of masks (self, cross, sliding windows), but some make one anew in each layer.
KEPT = 4


def grow(
    core: nn.Module,
    mask: torch.Tensor | None,
    query: torch.Tensor,
    key: torch.Tensor,
    program: Prefixes,
    is_causal: bool,
) -> torch.Tensor | None:
    """The mask for keys with prefixes in front; computed once for all layers that share a mask.

    Args:
        mask: [..., Q, K], boolean (True = visible), additive float, or integer (1 = visible).
        key: [B, heads, K, width], without the prefixes.
        program: the prefixes.
        is_causal: whether the kernel hides later keys by itself where there is no mask.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    is_made = mask is None and _needs_mask(core, queries, is_causal)
    layout = (program.layout, queries, keys, is_made, query.dtype)
    slot = thread.context.slot(PrefixSlot) if thread.context is not None else PrefixSlot()
    known = slot.grown_masks
    for entry in known:
        if entry.answers(mask, layout, key.device):
            return entry.grown
    visible = program.visible(key)
    if is_made:
        # Additive, which all kernels take: a core of unknown kind would add a boolean one as zeros and ones.
        grown = _additive(_causal(program.length, queries, keys, key.device), query)
    elif mask is None:
        if visible is None:
            return None
        grown = query.new_zeros(1, 1, 1, program.length + keys)
    else:
        grown = _grow(mask, program.length, keys)
    if visible is not None:
        grown = _hide(grown, visible, keys)
    if grown.dtype is torch.bool and _backend(core) == "sdpa":
        # The kernel would do this in each layer.
        grown = _additive(grown, query)
    slot.grown_masks = [GrownMask(mask, layout, grown), *known[: KEPT - 1]]
    return grown


def _hide(grown: torch.Tensor, visible: torch.Tensor, keys: int) -> torch.Tensor:
    """A mask [..., Q, P + K] that also hides positions of prefixes from rows: visible [B, P], or from queries: [B, Q, P]."""
    seen = pad(visible, (0, keys), value=True)
    own = seen.shape[1:]
    seen = seen.view(seen.shape[0], *(1,) * (grown.dim() - 1 - len(own)), *own)
    if grown.dtype.is_floating_point:
        # Below the value that hides tokens: a query that sees no token still spreads over tokens alone, as without a prefix.
        return grown.masked_fill(~seen, -torch.inf)
    return grown & seen if grown.dtype is torch.bool else grown * seen.to(grown.dtype)


def hide_from_rows(scores: torch.Tensor, visible: torch.Tensor, keys: int) -> torch.Tensor:
    """Scores [B, heads, Q, P + K] or [B * heads, Q, P + K], where rows do not attend to positions that they do not see.

    Args:
        visible: [B, P], or [B, Q, P] where queries differ.
        keys: K.
    """
    rows = visible.shape[0]
    return _hide(scores.view(rows, -1, *scores.shape[-2:]), visible, keys).view(scores.shape)


def takes_no_mask(core: nn.Module) -> UnsupportedMethodError:
    """The error where rows have prefixes of different lengths, which only a mask could tell."""
    return UnsupportedMethodError(
        f"{type(core).__name__} attends without a mask, so that rows cannot have prefixes of different lengths. "
        "Give the adapters of a block prefixes of one length (prefix_length=...)."
    )


def _needs_mask(core: nn.Module, queries: int, is_causal: bool) -> bool:
    """Whether the kernel would make a causal mask of its own: sdpa does, counting from the first key, prefix or not."""
    return is_causal and queries > 1 and _backend(core) != "eager"


def _causal(prefix: int, queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """[1, 1, Q, P + K]: the prefix and no later key."""
    visible = torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
    return pad(visible, (prefix, 0), value=True)[None, None]


def _additive(visible: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """A boolean mask [..., Q, K] as one that is added to scores, in the type of the queries."""
    return query.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)


def _grow(mask: torch.Tensor, prefix: int, keys: int) -> torch.Tensor:
    if mask.shape[-1] == 1 and keys > 1:  # the same for all keys
        mask = mask.expand(*mask.shape[:-1], keys)
    if mask.shape[-1] != keys:
        raise UnsupportedMethodError(
            f"Prefix tuning needs a mask with one column per key, but there are {mask.shape[-1]} columns and {keys} keys."
        )
    return pad(mask, (prefix, 0), value=0.0 if mask.dtype.is_floating_point else 1)


def grow_bias(bias: torch.Tensor, length: int, keys: int) -> torch.Tensor:
    """[..., Q, K] -> [..., Q, P + K], zeros in front. A bias that is one for many keys stays so.

    Args:
        length: P, positions of prefixes.
        keys: K. One key may have a bias of its own: that of the first step of a decoder.
    """
    return bias if bias.shape[-1] == 1 and keys > 1 else pad(bias, (length, 0))
