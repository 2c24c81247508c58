"""Layers whose adapters can be put into the weights of the model."""

from __future__ import annotations

import torch

from adapter_runtime.programs.layer import AdapterLayerBase, P


class MergeableLayer(AdapterLayerBase[P]):
    """Base of layers that can put an adapter into a weight: the same outputs at the cost of the bare model."""

    merged_adapter: str | None  # which adapter is in the weight and therefore does not run
    unmerged: tuple[torch.Tensor, torch.Tensor | None] | None  # the weight and bias before that

    def merge(self, name: str) -> None:
        """Put the adapter `name` into the weight. The original is kept, so that `unmerge` is exact.

        Raises:
            UnsupportedMethodError: the weight cannot hold it, or what the adapter does is not linear in the weight.
        """
        raise NotImplementedError

    def unmerge(self) -> None:
        """Restore the weight, bit by bit, if an adapter is merged into it."""
        raise NotImplementedError
