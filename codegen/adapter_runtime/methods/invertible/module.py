"""Invertible adapters: a change of the embeddings that is undone before the vocabulary (https://arxiv.org/abs/2005.00052).

Both kinds split the features in two halves and change each by something that depends on the other, so that the inverse is
known in closed form.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.common.activations import activation
from adapter_runtime.methods.common.initialisation import seeded


class Coupling(nn.Module):
    """Base of invertible adapters.

    Shapes: ... any number of dimensions, E width of the embeddings, halves E // 2 and the rest.

    Raises:
        InvalidConfigError: the non-linearity is unknown, or the embeddings have no two halves.
    """

    def __init__(self, config: BnConfig, width: int) -> None:
        super().__init__()
        if width < 2:
            raise InvalidConfigError(f"An invertible adapter splits the embeddings in two, but they are {width} wide.")
        self.config = config
        self.width = width
        self.halves = [width // 2, width - width // 2]
        with seeded(config.init_weights_seed):
            self.build()
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)

    def build(self) -> None:
        """Create the networks, under the names that they have in files."""
        raise NotImplementedError

    def network(self, inputs: int, outputs: int) -> nn.Sequential:
        """Down-projection, non-linearity and up-projection: [..., inputs] -> [..., outputs]."""
        assert self.config.inv_adapter_reduction_factor is not None
        size = max(1, int(inputs // self.config.inv_adapter_reduction_factor))
        return nn.Sequential(nn.Linear(inputs, size), activation(self.config.non_linearity), nn.Linear(size, outputs))

    def forward(self, states: torch.Tensor, rev: bool = False) -> torch.Tensor:
        """[..., E] -> [..., E]: the change, or with `rev` its inverse."""
        first, second = torch.split(states, self.halves, dim=-1)
        return torch.cat(self.undone(first, second) if rev else self.done(first, second), dim=-1)

    def done(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both halves [..., E // 2] and [..., E - E // 2], changed."""
        raise NotImplementedError

    def undone(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `done`, of halves of the same shapes."""
        raise NotImplementedError


class NICE(Coupling):
    """Adds to each half a function of the other half (https://arxiv.org/abs/1410.8516)."""

    def build(self) -> None:
        self.F = self.network(self.halves[1], self.halves[0])
        self.G = self.network(self.halves[0], self.halves[1])

    def done(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = first + self.F(second)
        return first, second + self.G(first)

    def undone(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        second = second - self.G(first)
        return first - self.F(second), second


class GLOW(Coupling):
    """Scales and shifts each half by functions of the other half (https://arxiv.org/abs/1807.03039).

    Scales lie between ``exp(-CLAMP)`` and ``exp(CLAMP)``.
    """

    CLAMP = 5.0
    _SLOPE = 0.636  # about 2 / pi, by which the arc tangent comes to lie in (-1, 1); the value that `adapters` has

    def build(self) -> None:
        self.s1 = self.network(self.halves[0], 2 * self.halves[1])
        self.s2 = self.network(self.halves[1], 2 * self.halves[0])

    def _log_scale_and_shift(
        self, network: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = network(given).chunk(2, dim=-1)
        return self.CLAMP * self._SLOPE * torch.atan(scale / self.CLAMP), shift

    def done(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = self._log_scale_and_shift(self.s2, second)
        first = first * scale.exp() + shift
        scale, shift = self._log_scale_and_shift(self.s1, first)
        return first, second * scale.exp() + shift

    def undone(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale, shift = self._log_scale_and_shift(self.s1, first)
        second = (second - shift) * (-scale).exp()
        scale, shift = self._log_scale_and_shift(self.s2, second)
        return (first - shift) * (-scale).exp(), second


_KINDS: dict[str, type[Coupling]] = {"nice": NICE, "glow": GLOW}


def make_invertible(config: BnConfig, width: int) -> Coupling:
    """The module that ``config.inv_adapter`` asks for."""
    assert config.inv_adapter is not None
    return _KINDS[config.inv_adapter](config, width)
