"""Which module of a model runs, by its path, while a forward is watched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from conformance.reference.layout import join


class Calls:
    """Tells of each call of a module of `model`, also of one that a forward itself puts in (BigBird chooses its attention there).

    Args:
        entered: is given the path of a module that begins to run.
        left: is called when the module that began last has run.
    """

    def __init__(self, model: nn.Module, entered: Callable[[str], None], left: Callable[[], None]) -> None:
        self._entered = entered
        self._left = left
        self._known: set[nn.Module] = set()
        self._handles: list[Any] = []
        self._watch("", model)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _watch(self, path: str, module: nn.Module) -> None:
        for inner, one in module.named_modules():
            if one not in self._known:
                self._known.add(one)
                self._handles.append(one.register_forward_pre_hook(functools.partial(self._begin, join(path, inner))))
                self._handles.append(one.register_forward_hook(self._end))

    def _begin(self, path: str, module: nn.Module, args: Any) -> None:
        for name, child in module.named_children():
            if child not in self._known:
                self._watch(join(path, name), child)
        self._entered(path)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:  # what a hook returns would be the output
        self._left()
