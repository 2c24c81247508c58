"""Which rows of a batch of texts have a place for images, sounds or videos: told by the placeholders among their tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from transformers import PretrainedConfig

from adapter_runtime.call.arguments import Argument

# What upstream calls the token of a place in a config, and masks of places among arguments.
_TOKEN = re.compile(r"(image|video|audio)_token_(id|index)")
_MASK = re.compile(r"(image|video|audio)\w*_mask")
_KINDS = {"image": "vision", "video": "vision", "audio": "audio"}


def kinds_without_places(config: PretrainedConfig, given: Mapping[str, Argument]) -> frozenset[str]:
    """The kinds of parts ("vision", "audio", "" for those that read other parts) of whose inputs some row has none, as far as shows.

    As many inputs as rows are one for each row if every row has a place for one. Without placeholders they are taken row by row.

    Args:
        config: of the whole, which names the placeholders.
        given: the arguments of a call of the whole; tokens are [B, L].
    """
    tokens = given.get("input_ids")
    shown = [(kind, _in_each_row(tokens, token)) for kind, token in _placeholders(config)]
    if isinstance(tokens, torch.Tensor):
        masks = ((_MASK.fullmatch(name), mask) for name, mask in given.items())
        shown += [
            (_KINDS[found[1]], mask.bool().any(dim=1))
            for found, mask in masks
            if found and isinstance(mask, torch.Tensor) and mask.shape == tokens.shape
        ]
    lacking = {kind for kind, _ in shown if _is_lacking([rows for other, rows in shown if other == kind])}
    return frozenset(lacking | {""} if lacking else lacking)


def puts_by_index(config: PretrainedConfig) -> bool:
    """Whether features of images or sounds stand at placeholders among the tokens: then arguments may count these, and not rows."""
    return next(_placeholders(config), None) is not None


def _is_lacking(shown: list[torch.Tensor | None]) -> bool:
    """Whether some rows have no place, or no tokens are given that could show it. Where no row at all has one, none are asked for: what
    is put into tokens, upstream misses there, and what they attend to comes row by row (Mllama).
    """
    known = [rows for rows in shown if rows is not None]
    return not known or any(bool(rows.any()) and not bool(rows.all()) for rows in known)


def _in_each_row(tokens: Argument, token: int) -> torch.Tensor | None:
    """Whether each row of tokens [B, L] has a placeholder: [B]; None where tokens are not given."""
    return (tokens == token).any(dim=-1) if isinstance(tokens, torch.Tensor) and tokens.dim() == 2 else None


def _placeholders(config: PretrainedConfig) -> Iterator[tuple[str, int]]:
    """The kind of part that reads what stands at a placeholder, and its token."""
    parts = (getattr(config, name, None) for name in config.sub_configs)
    for one in (config, *parts):
        for name, token in vars(one).items() if isinstance(one, PretrainedConfig) else ():
            found = _TOKEN.fullmatch(name)
            if found and isinstance(token, int):
                yield _KINDS[found[1]], token
