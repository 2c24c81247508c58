"""Inputs as data, and the tensors that they stand for.

A recipe is a small dictionary with a ``kind``; ``shape`` is the tensor's. The same seed gives the same values.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch

Recipe = Mapping[str, Any]


def tensors(recipes: Mapping[str, Recipe], seed: int = 0) -> dict[str, Any]:
    """Keyword arguments of a forward."""
    return {name: _value(recipe, _generator(name, seed)) for name, recipe in recipes.items()}


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()) % 2**31 + seed)


def _value(recipe: Recipe, generator: torch.Generator) -> Any:
    kind = recipe["kind"]
    if kind == "plain":  # no tensor: a switch, a number, a list
        return recipe["value"]
    if kind == "long":  # whole numbers written out
        return torch.tensor(recipe["value"], dtype=torch.long)
    shape = tuple(recipe["shape"])
    if kind == "normal":
        return torch.randn(shape, generator=generator)
    if kind == "unit":  # between 0 and 1
        return torch.rand(shape, generator=generator)
    if kind == "ones":
        return torch.ones(shape, dtype=getattr(torch, recipe.get("dtype", "long")))
    if kind == "zeros":
        return _put(torch.zeros(shape, dtype=getattr(torch, recipe.get("dtype", "long"))), recipe)
    if kind == "range":  # 0, 1, 2 ... along the last axis
        return torch.arange(shape[-1]).expand(shape).contiguous()
    if kind == "boxes":  # (..., 4): left, top, right, bottom
        corners = torch.randint(0, recipe["high"], (*shape[:-1], 2, 2), generator=generator).sort(dim=-2).values
        return corners.flatten(-2)
    if kind == "ids":
        return _ids(recipe, shape, generator)
    raise ValueError(f"there is no recipe of kind {kind!r}; kinds stand in {__file__}")


def _ids(recipe: Recipe, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Tokens in [low, high); ``put`` says [token, first place, number] of placeholders in each row (of zeros, too)."""
    ids = torch.randint(recipe.get("low", 0), recipe["high"], shape, generator=generator)
    return _put(ids, recipe)


def _put(ids: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    for token, place, number in recipe.get("put", ()):
        ids[..., place : place + number] = token
    return ids
