"""Whether a difference is one of rounding: in double precision it must be gone, by far more than single precision rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from conformance.outputs import assert_equal_within, changed, run

_GROUPED = getattr(torch, "_grouped_mm", None)  # of some releases
IN_DOUBLE = 1e-3  # of the bounds in single precision; what double precision itself rounds is far less
_ATOL, _RTOL = 1e-6, 1e-5

Outputs = dict[str, Tensor]


class InDouble(TorchFunctionMode):
    """Whoever asks for single precision gets double, and who asks for none in particular."""

    def __enter__(self) -> InDouble:
        self._usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_default_dtype(self._usual)

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        if func is _GROUPED and args[0].dtype is torch.float64:
            return _grouped(args[0], args[1], (kwargs or {})["offs"])
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()}
        return func(*args, **kwargs)


def _grouped(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """(N, I) and (E, I, O) -> (N, O): each expert has the rows up to its end. Torch's kernel knows no double precision."""
    *groups, rest = rows.tensor_split(ends.tolist())
    products = [group @ matrix for group, matrix in zip(groups, matrices, strict=True)]
    return torch.cat([*products, rest.new_zeros(len(rest), matrices.shape[-1])])


def doubled(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """`inputs` in double precision, where they are no numbers of tokens."""
    return changed(inputs, lambda value: value.double() if value.is_floating_point() else value)


def in_either_precision(compare: Callable[[bool], None]) -> None:
    """Run `compare`; where it fails, again in double precision, in which it must hold by `IN_DOUBLE` of its bounds.

    Args:
        compare: whether double precision is asked for -> raises AssertionError.
    """
    try:
        compare(False)
    except AssertionError as error:
        try:
            with InDouble():
                compare(True)
        except Exception:  # what cannot be computed in double is not known to be rounding
            raise error from None


def assert_same_but_for_rounding(
    model: nn.Module, one: Mapping[str, Any], other: Mapping[str, Any], read: Callable[[Outputs], Outputs], what: str
) -> None:
    """What is read of the outputs for two inputs is the same.

    Experts multiply the tokens that they were sent in one product: with other tokens among them, torch may round these otherwise.
    """

    def compare(is_double: bool) -> None:
        running = copy.deepcopy(model).double() if is_double else model
        before, after = (read(run(running, doubled(given) if is_double else given)) for given in (one, other))
        bound = IN_DOUBLE if is_double else 1.0
        assert_equal_within(after, before, what, _ATOL * bound, _RTOL * bound)

    in_either_precision(compare)
