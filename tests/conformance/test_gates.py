"""What only weighs the stream and what a host gave is told from what adds something to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.models.d_fine.modeling_d_fine import DFineGate

from conformance.gates import weighs_both

Sum = Callable[["Gate", Tensor, Tensor], Tensor]


class Gate(nn.Module):
    """What `total` makes of two tensors, with a norm of it."""

    def __init__(self, total: Sum) -> None:
        super().__init__()
        self.total = total
        self.gate = nn.Linear(16, 16)
        self.one = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def weights(self, stream: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        first, second = torch.sigmoid(self.gate(torch.cat([stream, branch], dim=-1))).chunk(2, dim=-1)
        return first, second

    def forward(self, stream: Tensor, branch: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.total(self, stream, branch))
        return normed


def _weighed(gate: Gate, stream: Tensor, branch: Tensor) -> Tensor:
    first, second = gate.weights(stream, branch)
    return first * stream + second * branch


def _is_gate(module: nn.Module) -> bool:
    return weighs_both(module, module, torch.zeros(2, 5, 8))


def test_gates_of_upstream_and_their_norms() -> None:
    torch.manual_seed(0)
    assert _is_gate(DFineGate(8))
    module = Gate(_weighed)
    assert _is_gate(module)
    assert bool(
        torch.isclose(module(*torch.randn(2, 2, 5, 8)).mean(-1), torch.zeros(()), atol=1e-5).all()
    )  # still a norm


@pytest.mark.parametrize(
    "total",
    [
        pytest.param(lambda gate, s, b: _weighed(gate, s, b) + gate.one(s), id="a projection that is added"),
        pytest.param(lambda gate, s, b: _weighed(gate, s, b) + gate.one.bias, id="a bias that is added"),
        pytest.param(lambda gate, s, b: gate.one(_weighed(gate, s, b)), id="a projection of the sum"),
        pytest.param(lambda gate, s, b: s * gate.one(s) + b, id="a weight without bounds"),
        pytest.param(lambda gate, s, b: s * torch.tanh(gate.one(s)) + b, id="a weight that may be negative"),
        pytest.param(lambda gate, s, b: gate.weights(s, b)[0] * s, id="the stream alone"),
        pytest.param(lambda gate, s, b: gate.weights(s, b)[0] * b, id="the branch alone"),
        pytest.param(lambda gate, s, b: _weighed(gate, s, b).mean(1), id="one position for all"),
        pytest.param(lambda gate, s, b: _weighed(gate, s, b).roll(1, 1), id="positions in another order"),
        pytest.param(lambda gate, s, b: _weighed(gate, s.mean(1, keepdim=True) + 0 * s, b), id="a mean"),
        pytest.param(
            lambda gate, s, b: torch.softmax(gate.one(s + b), 1) * s + torch.sigmoid(gate.one(s)) * b,
            id="a weight over positions",
        ),
    ],
)
def test_what_is_no_gate(total: Sum) -> None:
    torch.manual_seed(0)
    assert not _is_gate(Gate(total))


def test_one_position_shows_nothing() -> None:
    assert not weighs_both(DFineGate(8), DFineGate(8), torch.zeros(2, 1, 8))
