"""Whether a difference is one of rounding is asked in double precision, and all of it must be in double."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conformance.checks.reference import InDouble

STATES = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class _Norm(nn.Module):
    """As upstream's norms are written: in single precision, whatever they are given."""

    def forward(self, states: Tensor) -> Tensor:
        dtype = states.dtype
        states = states.to(torch.float32)
        scale = torch.rsqrt(states.float().pow(2).mean(-1, keepdim=True))
        return torch.softmax((states * scale).type(torch.float32), dim=-1, dtype=torch.float32).to(dtype)


def test_what_a_module_computes_in_single_precision_it_computes_in_double() -> None:
    scaled = STATES * torch.rsqrt(STATES.pow(2).mean(-1, keepdim=True))
    expected = torch.softmax(scaled, dim=-1)
    with InDouble():
        assert torch.equal(_Norm()(STATES), expected)
    assert not torch.equal(_Norm()(STATES), expected)


def test_a_new_tensor_is_in_double_too_and_other_types_stay() -> None:
    with InDouble():
        assert torch.zeros(2, dtype=torch.float32).dtype is torch.float64
        assert STATES.to(torch.long).dtype is torch.long
        assert STATES.to(dtype=torch.bfloat16).dtype is torch.bfloat16


def test_groups_of_rows_have_their_own_matrices() -> None:
    rows, matrices = STATES.view(6, 8), torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1)).double()
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    with InDouble():
        found = torch._grouped_mm(rows, matrices, offs=ends)
    assert torch.equal(found[:2], rows[:2] @ matrices[0])
    assert torch.equal(found[2:5], rows[2:5] @ matrices[2])
    assert found.shape == (6, 4)
