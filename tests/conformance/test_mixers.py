"""Which projections are those of a mixer is seen on upstream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance.checks.mixers import assert_mixes
from conformance.reference.layout import Layer, Layout

WIDTH = 4


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.side = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.cumsum(self.up(x), 1)) + self.side(x)


class _InTraining(_Layer):
    """A kernel, where there is one, computes with the weight while the model trains."""

    def forward(self, x: Tensor) -> Tensor:
        fast = _kernel(x, self.down.weight) if self.training else None
        return super().forward(x) if fast is None else fast


class _ByAnother(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.linear(torch.cumsum(self.up(x), 1), self.down.weight)


def _kernel(x: Tensor, weight: Tensor) -> None:
    """None is there."""


class _Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Gated(_Layer):
    """What another projection gives is a factor of what was mixed."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.cumsum(self.up(x), 1) * torch.sigmoid(self.side(x)))


class _Added(_Layer):
    """What another projection gives is added to what was mixed, each position for itself."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + self.down(torch.cumsum(self.up(x), 1) + self.side(x)))


def _check(layer: nn.Module, *first: str, last: str = "down") -> None:
    model = _Model(layer).eval()
    known = type(layer.down)
    roles = Layer(
        "layer",
        (),
        (),
        (),
        (),
        mixer_first=tuple(f"layer.{name}" for name in first or ("up",)),
        mixer_last=(f"layer.{last}",),
    )
    try:
        assert_mixes(model, Layout((roles,), ""), {"x": torch.randn(2, 6, WIDTH)})
    finally:
        assert type(layer.down) is known and not model.training


def test_what_reaches_other_positions_and_runs_is_one() -> None:
    _check(_Layer())


def test_what_reaches_its_own_position_alone_is_no_first_one() -> None:
    with pytest.raises(AssertionError, match=r"layer\.side is declared .* reaches no other position"):
        _check(_Layer(), "side")


def test_a_gate_of_what_was_mixed_is_one() -> None:
    _check(_Gated(), "up", "side")


@pytest.mark.parametrize("layer", [_Layer, _Added])
def test_what_stands_beside_the_mixing_is_none(layer: type[_Layer]) -> None:
    with pytest.raises(AssertionError, match=r"layer\.side is declared .* gates nothing"):
        _check(layer(), "up", "side")


@pytest.mark.parametrize("layer", [_InTraining, _ByAnother])
def test_what_is_computed_with_beside_its_call_is_none(layer: type[_Layer]) -> None:
    with pytest.raises(AssertionError, match=r"reads the weights of \['layer\.down'\]"):
        _check(layer())


def test_what_never_runs_is_none() -> None:
    with pytest.raises(AssertionError, match=r"does not run \['layer\.side'\]"):
        _check(_NoSide(), last="side")


class _NoSide(_Layer):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.cumsum(self.up(x), 1))
