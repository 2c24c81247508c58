"""Gates that upstream puts where a residual addition would be: a module that is given the stream and what a host gave, and weighs both.

The projection in it reads both, and so reaches the output of a layer whose hosts are silent. It is no sublayer if it does nothing but
say how much of each goes on: element by element, each position by itself, with weights between zero and one. Seen on modules that run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Call = Callable[[Tensor, Tensor], Tensor]
_SCALE = 10.0  # so that weights which are not bounded are more than one
_TOLERANCE = 1e-5


def weighs_both(module: nn.Module, call: Call, like: Tensor) -> bool:
    """Whether a module gives a weighted sum of two tensors, apart from norms in it.

    Args:
        module: whose norms are left out for the time.
        call: runs it with two tensors.
        like: a tensor of the shape of both.
    """
    generator = torch.Generator().manual_seed(7)
    first, second = (torch.randn(like.shape, generator=generator) * _SCALE for _ in range(2))
    kept = torch.rand(like.shape, generator=generator) < 0.5
    nothing, elsewhere = torch.zeros_like(first), first.clone()
    elsewhere[:, 0] += 1.0
    with torch.no_grad(), _without_norms(module):
        both = call(first, second)
        if both.shape != like.shape or like.dim() < 3 or like.shape[1] < 2:
            return False
        is_elementwise = not bool(call(first * kept, second * kept)[~kept].any())
        alone = [call(first, nothing) / first, call(nothing, second) / second]
        by_position = torch.allclose(call(elsewhere, second)[:, 1:], both[:, 1:], rtol=_TOLERANCE, atol=_TOLERANCE)
    are_weights = all(bool((one >= -_TOLERANCE).all() & (one <= 1 + _TOLERANCE).all() & one.any()) for one in alone)
    is_bounded = bool((both.abs() <= (first.abs() + second.abs()) * (1 + _TOLERANCE)).all())
    return is_elementwise and are_weights and by_position and is_bounded


@contextlib.contextmanager
def _without_norms(module: nn.Module) -> Iterator[None]:
    norms = [inner for inner in module.modules() if inner is not module and "Norm" in type(inner).__name__]
    for norm in norms:
        norm.__dict__["forward"] = lambda states: states
    try:
        yield
    finally:
        for norm in norms:
            norm.__dict__.pop("forward")
