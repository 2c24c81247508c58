"""All or nothing: what a load changes is undone when a later part of it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch

from adapter_runtime.files.fit import copy_tensors


class Transaction:
    """Changes of structure happen at once and are undone on failure; tensors are copied at the end, on success only."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._copies: list[tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]] = []

    def on_failure(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Call this if the transaction fails; the last given is called first."""
        self._undo.callback(action, *arguments)

    def copy(self, given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
        """Copy `given` into `expected` in the end. Shapes must have been compared."""
        self._copies.append((given, expected))

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._undo.close()
            return
        self._undo.pop_all()
        for given, expected in self._copies:
            copy_tensors(given, expected)
