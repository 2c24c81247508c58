"""Whether a difference is one of rounding is asked in double precision, and all of it must be in double."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from conformance.in_double import IN_DOUBLE, InDouble, assert_same_but_for_rounding, in_either_precision

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
        assert torch.zeros(2).dtype is torch.float64
        assert STATES.to(torch.long).dtype is torch.long
        assert STATES.to(dtype=torch.bfloat16).dtype is torch.bfloat16
    assert torch.zeros(2).dtype is torch.float32


def test_groups_of_rows_have_their_own_matrices() -> None:
    rows, matrices = STATES.view(6, 8), torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1)).double()
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    with InDouble():
        found = torch._grouped_mm(rows, matrices, offs=ends)
    assert torch.equal(found[:2], rows[:2] @ matrices[0])
    assert torch.equal(found[2:5], rows[2:5] @ matrices[2])
    assert found.shape == (6, 4)


class _Sums(nn.Module):
    """Adds up numbers of which single precision loses the small ones, and shows a share of what it should not see."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, order: Tensor, hidden: Tensor, **flags: bool) -> dict[str, Tensor]:
        numbers = torch.tensor([1e3, 1e-5, -1e3], dtype=torch.float32)
        first, second, third = numbers[order]
        return {"logits": (first + second) + third + self.share * hidden}


ORDERS = torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1])
HIDDEN = torch.zeros(()), torch.ones(())


def _compared(difference: float, in_double: float, bound: float = 1e-5) -> None:
    def compare(double: bool) -> None:
        found, allowed = (in_double, bound * IN_DOUBLE) if double else (difference, bound)
        if found > allowed:
            raise AssertionError(f"differs by {found}, double={double}")

    in_either_precision(compare)


def test_a_difference_that_stays_in_double_precision_is_the_one_that_is_told() -> None:
    _compared(1e-6, in_double=1.0)  # not asked for
    _compared(1e-4, in_double=1e-12)
    with pytest.raises(AssertionError, match="double=False"):
        _compared(1e-4, in_double=1e-6)


def test_what_double_precision_cannot_compute_is_no_rounding() -> None:
    def compare(double: bool) -> None:
        raise TypeError if double else AssertionError("single")

    with pytest.raises(AssertionError, match="single"):
        in_either_precision(compare)


@pytest.mark.parametrize(
    ("share", "fails"),
    [
        pytest.param(0.0, False, id="only rounded otherwise"),
        pytest.param(1e-2, True, id="another token is seen"),
        pytest.param(1e-5, True, id="another token is seen, by hardly more than rounding"),
    ],
)
def test_only_what_is_gone_in_double_precision_was_rounding(share: float, fails: bool) -> None:
    one, other = ({"order": order, "hidden": hidden} for order, hidden in zip(ORDERS, HIDDEN, strict=True))
    with pytest.raises(AssertionError, match="logits") if fails else contextlib.nullcontext():
        assert_same_but_for_rounding(_Sums(share), one, other, lambda outputs: outputs, "it")
