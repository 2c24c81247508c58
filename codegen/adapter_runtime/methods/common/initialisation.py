"""The first values of new adapters: random numbers, and whether they matter at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Within the context, torch draws as after `manual_seed(seed)`; its state is restored afterwards. None changes nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of accelerators, which are not restored
        yield


class _Loading(threading.local):
    """Whether the weights of adapters that are added now will be replaced."""

    def __init__(self) -> None:
        self.is_on = False


_loading = _Loading()


@contextmanager
def weights_follow() -> Iterator[None]:
    """Within the context, the weights of new adapters will come from a file or from other adapters.

    Prompts need no text and no tokenizer then, and what a config asks for was decided elsewhere.
    """
    before = _loading.is_on
    _loading.is_on = True
    try:
        yield
    finally:
        _loading.is_on = before


def weights_will_follow() -> bool:
    """Whether the weights of an adapter that is added now will be read from a file."""
    return _loading.is_on
