"""Which projections are those of a feed-forward block is seen on upstream."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from conformance.checks.feed_forward import assert_feeds_forward
from conformance.reference.layout import Attention, Layer, Layout

WIDTH = 4


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("q", "k", "v", "o", "up", "gate", "down", "narrow", "wide"):
            self.add_module(name, nn.Linear(WIDTH, WIDTH))
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.norm = nn.RMSNorm(WIDTH)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        weights = torch.softmax(self.q(x) @ self.k(x).transpose(-1, -2), dim=-1)
        x = x + self.o(weights @ self.v(x))
        return self.fed(x, beside)

    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class _PostNorm(_Layer):
    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.norm(x + 0.5 * self.norm(self.down(torch.relu(self.up(x)))))


class _Parallel(_Layer):
    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        return self.o(self.v(x)) + self.down(torch.relu(self.up(self.norm(x)))) + x


class _Experts(_Layer):
    """Beside it run experts, whose shares are made of the stream."""

    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        share = torch.softmax(self.wide(x), -1)[..., :1]
        return x + (share * self.narrow(x) + share * self.down(torch.relu(self.up(self.norm(x)))))


class _Streams(_Layer):
    """Several streams, of which the block reads a mix, and which are mixed by a matrix beside what it gives."""

    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        streams = torch.stack([x, beside], dim=2)
        mix = torch.sigmoid(self.wide(streams)) @ self.narrow(streams).transpose(-1, -2)
        given = self.down(torch.relu(self.up(streams.mean(2))))
        return (given.unsqueeze(2) + mix @ streams).mean(2)


class _OfWeights(_Layer):
    """What it is added to was made by a product with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2, WIDTH, WIDTH))

    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        return torch.bmm(x, self.weights) + self.down(torch.relu(self.up(x)))


class _Gated(_Layer):
    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        return x + self.down(self.norm(nn.functional.silu(self.gate(x)) * self.up(x)))


class _Convolving(_Layer):
    def convolved(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)

    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.convolved(self.up(x))))


class _Conformer(_Convolving):
    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(x)))
        return x + self.wide(torch.relu(self.convolved(self.narrow(x))))


class _PerLayer(_Layer):
    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(x)))
        return x + self.wide(torch.relu(self.narrow(x)) * beside)


class _Elsewhere(_Layer):
    """What is added is projected once more."""

    def fed(self, x: Tensor, beside: Tensor) -> Tensor:
        return x + self.wide(self.down(torch.relu(self.up(x))))


class _Attending(_Layer):
    """The attention stands within the block."""

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        y = torch.relu(self.up(x))
        weights = torch.softmax(self.q(y) @ self.k(y).transpose(-1, -2), dim=-1)
        return x + self.down(self.o(weights @ self.v(y)))


def _check(layer: type[_Layer], first: str = "up", gate: str = "", last: str = "down") -> None:
    torch.manual_seed(0)
    upstream = nn.Module()
    upstream.layers = nn.ModuleList([layer(), layer()])

    def forward(x: Tensor, beside: Tensor) -> Tensor:
        with torch.no_grad():  # as HRM iterates
            x = upstream.layers[0](x, beside)
        return upstream.layers[1](upstream.layers[0](x, beside), beside)

    upstream.forward = forward
    layout = Layout(tuple(_declared(f"layers.{index}", first, gate, last) for index in range(2)), base="")
    inputs = {name: torch.randn(2, 5, WIDTH) for name in ("x", "beside")}
    assert_feeds_forward(upstream.requires_grad_(False), layout, inputs)
    assert not any(parameter.requires_grad for parameter in upstream.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in upstream.modules())


def _declared(path: str, first: str, gate: str, last: str) -> Layer:
    firsts, gates, lasts = (tuple(f"{path}.{name}" for name in names.split()) for names in (first, gate, last))
    projections = {role: f"{path}.{role[0]}" for role in ("query", "key", "value", "output")}
    attention = Attention(path, path, "self", **projections, fused="", in_encoder=False)
    return replace(Layer(path, (attention,), (), firsts, lasts), mlp_gate=gates)


@pytest.mark.parametrize("layer", [_Layer, _PostNorm, _Parallel, _Experts, _Conformer, _PerLayer, _Streams])
def test_a_feed_forward_block_is_one(layer: type[_Layer]) -> None:
    _check(layer)


def test_a_gate_is_one() -> None:
    _check(_Gated, gate="gate")


def test_a_convolution_may_stand_in_the_only_block() -> None:
    _check(_Convolving)


@pytest.mark.parametrize(
    ("layer", "roles", "message"),
    [
        pytest.param(_Layer, {"first": "down", "last": "up"}, "up .* reads nothing of a first one", id="exchanged"),
        pytest.param(_Layer, {"first": "v", "last": "o"}, r"v .* no activation lies between", id="an attention"),
        pytest.param(_Layer, {"first": ""}, "down .* reads nothing of a first one", id="no first one"),
        pytest.param(_Layer, {"first": "up o"}, r"\.o is declared .* feeds no last one", id="one too many"),
        pytest.param(_Gated, {"first": "gate", "gate": "up"}, "up is declared as gate, but no act", id="gate and up"),
        pytest.param(_Gated, {"first": "gate up"}, "up is declared as first .* no activation", id="the gate is none"),
        pytest.param(
            _Conformer, {"first": "up narrow", "last": "down wide"}, "wide .* positions are mixed", id="convolution"
        ),
        pytest.param(
            _PerLayer, {"first": "up narrow", "last": "down wide"}, "wide .* beside its stream", id="inputs per layer"
        ),
        pytest.param(_Elsewhere, {}, "what it gives is not added", id="projected once more"),
        pytest.param(_OfWeights, {}, "what it gives is not added", id="added to a product with a weight"),
        pytest.param(_Attending, {}, "down .* reads nothing of a first one", id="an attention within"),
    ],
)
def test_what_is_declared_wrongly_is_found(layer: type[_Layer], roles: dict[str, str], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        _check(layer, **roles)
