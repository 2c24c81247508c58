"""Rotating the keys of a prefix by some positions, in models with rotary position embeddings (RoPE).

PEFT puts a prefix of P positions into the cache, so that upstream counts tokens from P on; here they are counted from 0. The
score of a query and a key of the prefix depends on the angle between them only, so keys
rotated back by P give the same scores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.contract.snapshot import in_evaluation
from adapter_runtime.errors import UnsupportedMethodError

# Upstream's function: queries and keys [B, heads, L, width], cosines and sines -> both, rotated
Turn: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


_ROWS = 4  # tokens that are tried: the embedding of one for padding may be zero
_MOVED = 3  # positions by which a token is moved, to see whether its keys change


def rotary_module(base: AdaptedBaseModel) -> nn.Module | None:
    """The module that gives cosines and sines; None in models that count positions in another way."""
    return next((module for path, module in base.named_modules() if path.rpartition(".")[2] == "rotary_emb"), None)


@torch.no_grad()
def turned(base: AdaptedBaseModel, keys: torch.Tensor, positions: int) -> torch.Tensor:
    """Keys [layers, heads, P, width] rotated forward by a number of positions, back if it is negative, in the layers that rotate any.

    Raises:
        UnsupportedMethodError: the model does not rotate keys by one angle per position, so that it could be undone.
    """
    rotating = torch.tensor(rotating_layers(base, len(keys)), device=keys.device)
    result = keys.clone()
    result[rotating] = _all_turned(base, keys[rotating], positions)
    return result


def rotating_layers(base: AdaptedBaseModel, layers: int) -> list[bool]:
    """Which layers rotate their keys: in Cohere 2 those with a window, in SmolLM 3 three of four.

    A single token sees itself alone, so that nothing but a rotation makes its keys in the cache depend on its position.

    Raises:
        UnsupportedMethodError: the keys of a token are not to be had.
    """
    model = base.get_submodule("")
    tokens = torch.arange(_ROWS, device=next(base.parameters()).device)[:, None]
    try:
        with in_evaluation(model), AdapterSetup(None):
            first, moved = (_keys(model, tokens, torch.full_like(tokens, position)) for position in (0, _MOVED))
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        raise _refusal(base, f"which of its layers turn keys cannot be tried ({error})") from error
    if len(first) != layers or len(moved) != layers:
        raise _refusal(base, f"of {layers} layers {len(first)} keep keys")
    return [not torch.equal(one, other) for one, other in zip(first, moved, strict=True)]


def _keys(model: nn.Module, tokens: torch.Tensor, positions: torch.Tensor) -> list[torch.Tensor]:
    """The keys of single tokens [B, 1] in each layer."""
    cache = model(input_ids=tokens, position_ids=positions, use_cache=True, return_dict=True).past_key_values
    return [layer.keys for layer in cache.layers if isinstance(layer.keys, torch.Tensor)]


def _all_turned(base: AdaptedBaseModel, keys: torch.Tensor, positions: int) -> torch.Tensor:
    rotary, apply = rotary_module(base), _function(base)
    if rotary is None or apply is None:
        raise _refusal(base, "its attention has no function for it")
    try:
        cos, sin = rotary(keys, torch.full((1, 1), abs(positions), device=keys.device))
        there, back = (apply(keys, keys, cos, angle)[1] for angle in (sin, -sin))
        again = apply(there, there, cos, -sin)[1]
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise _refusal(base, f"it turns keys in a way of its own ({error})") from error
    if not torch.allclose(again, keys, rtol=1e-4, atol=1e-5):
        raise _refusal(base, "it scales keys as well as turning them")
    return there if positions >= 0 else back


def _function(base: AdaptedBaseModel) -> Turn | None:
    """Upstream's function that rotates queries and keys, from the module of the attention's class."""
    _, layer = next(base.adapted_layers())
    for _, core in layer.adapted_attentions():
        for cls in type(core).__mro__:
            function: Turn | None = getattr(sys.modules.get(cls.__module__), "apply_rotary_pos_emb", None)
            if cls.__module__.startswith("transformers.models.") and function is not None:
                return function
    return None


def _refusal(base: AdaptedBaseModel, reason: str) -> UnsupportedMethodError:
    return UnsupportedMethodError(
        f"PEFT counts the positions of tokens from the prefix on, here they are counted from 0. The keys of a {type(base).__name__}"
        f" cannot be turned to make up for that: {reason}."
    )
