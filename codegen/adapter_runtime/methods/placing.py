"""The layers of a model in which an adapter gets a place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer


def layers_without(model: AdaptedBaseModel, leave_out: Sequence[int]) -> Iterator[tuple[int, AdaptedLayer]]:
    """The layers of a model with their indices, but for those that are left out."""
    return ((index, layer) for index, layer in model.adapted_layers() if index not in leave_out)
