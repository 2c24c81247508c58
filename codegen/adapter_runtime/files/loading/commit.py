"""The last step of loading: tensors are copied when all of them are known to fit, or none is."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import torch


@torch.no_grad()
def copy_tensors(given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Copy each tensor that is in both into `expected`, with the dtype and device that it has there."""
    for key in given.keys() & expected.keys():
        expected[key].copy_(given[key])


class Transaction:
    """Copies of tensors that are made in the end, and only if no error came before.

    What a load changes of the structure of a model is undone by `unchanged_on_error`, around the transaction.
    """

    def __init__(self) -> None:
        self._copies: list[tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]] = []

    def copy(self, given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
        """Copy `given` into `expected` in the end. Shapes must have been compared."""
        self._copies.append((given, expected))

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._copy_all()

    def _copy_all(self) -> None:
        kept = [
            ({key: expected[key].detach().clone() for key in given.keys() & expected.keys()}, expected)
            for given, expected in self._copies
        ]
        try:
            for given, expected in self._copies:
                copy_tensors(given, expected)
        except BaseException:
            for values, expected in kept:
                for key, tensor in values.items():
                    with torch.no_grad():
                        expected[key].copy_(tensor)
            raise
