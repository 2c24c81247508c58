"""What adapters compute beside their outputs, kept for callers who ask for it."""

from __future__ import annotations

import torch

from adapter_runtime.call.arguments import Arrays


class Scores:
    """Tensors by name of an adapter (or fusion), layer and location."""

    def __init__(self) -> None:
        self._found: dict[str, dict[int, dict[str, list[torch.Tensor]]]] = {}

    def add(self, name: str, layer: int, location: str, values: torch.Tensor, columns: bool = True) -> None:
        """Keep `values`.

        Args:
            name, layer, location: the place of the module that computed them; see `Place`.
            values: gates [B, ..., G] whose other dimensions are 1, kept as [B, G]; or, without `columns`, any tensor.
            columns: keep the values as [B, G].
        """
        kept = values.detach().reshape(values.shape[0], -1) if columns else values.detach()
        self._found.setdefault(name, {}).setdefault(layer, {}).setdefault(location, []).append(kept)

    def as_arrays(self) -> Arrays:
        """Name -> layer -> location -> numpy array. Several gates at one location stand side by side: [B, sum of G]."""
        return {
            name: {
                layer: {location: _joined(values).float().cpu().numpy() for location, values in places.items()}
                for layer, places in layers.items()
            }
            for name, layers in self._found.items()
        }


def _joined(values: list[torch.Tensor]) -> torch.Tensor:
    """What was kept at one location as one tensor: gates [B, G] side by side, one gate of one value as [B]."""
    if len(values) == 1:
        joined = values[0]
    elif values[0].dim() == 2:
        joined = torch.cat(values, dim=1)
    else:
        joined = values[-1]  # a layer that runs several times: the last
    return joined.squeeze(1) if joined.dim() == 2 and joined.shape[1] == 1 else joined
