"""Seeing that a model compares rows of one part with all rows of another: a contrastive matrix of texts and images.

Where the rows of a call belong to several adapters, such a matrix compares those of one adapter with those of another, and
so does the loss made of it. Nothing in its shape tells: rows may be as many as classes. So what stands between the parts
is watched: which dimension of a tensor holds the rows that a part gave, and whether a product brings rows into two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

# By the name of a function, which those of tensors and of torch share. Of products: what becomes of the last two dimensions.
_MATMUL = frozenset({"matmul", "__matmul__", "__rmatmul__", "mm", "bmm"})
_ELEMENTWISE = frozenset(
    f"{around[0]}{name}{around[1]}"
    for name in ("add", "sub", "mul", "div", "truediv", "radd", "rsub", "rmul", "rtruediv", "cosine_similarity")
    for around in (("", ""), ("__", "__"))
)
_LOSING = frozenset({"stack"})  # new dimensions, of which neither sizes nor strides tell which they are


class RowsMeetError(Exception):
    """Rows of one tensor were compared with all rows of another."""


class RowWatch(TorchFunctionMode):
    """Follows the rows of parts through what stands between these.

    Within the mode, a product of rows with other rows raises `RowsMeetError`. What a function does to rows that is not known is
    forgotten: then nothing is raised.

    Args:
        copies: of the batch; the first dimension of what holds rows of all is a multiple.
    """

    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies = copies
        self._rows: Any = WeakTensorKeyDictionary()  # tensor -> which of its dimensions counts rows
        self._inside = 0  # how many calls of parts run, in which nothing is watched

    def apart(self, call: Callable[[], Any], follows: bool) -> Any:
        """What a call of a part gives, in which nothing is watched.

        Args:
            follows: whether the rows of its outputs are followed from there on.
        """
        outputs = None
        self.enter()
        try:
            outputs = call()
        finally:
            self.leave(outputs if follows else None)
        return outputs

    def enter(self) -> None:
        """Watch nothing until `leave`, as a call of a part begins."""
        self._inside += 1

    def leave(self, outputs: Any) -> None:
        """Go on watching, as a call of a part has ended.

        Args:
            outputs: those whose rows are followed from there on.
        """
        self._inside -= 1
        if self._inside:
            return
        for tensor in _tensors(outputs):
            if tensor.dim() > 1 and len(tensor) > 1 and len(tensor) % self.copies == 0:
                self._rows[tensor] = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See torch: called in place of each of its functions."""
        given = kwargs or {}
        if self._inside or not len(self._rows):
            return func(*args, **given)
        tensors = list(_tensors((*args, *given.values())))
        known = [tensor for tensor in tensors if tensor in self._rows]
        if not known:
            return func(*args, **given)
        name = getattr(func, "__name__", "")
        before = [(tensor, self._rows[tensor], tuple(tensor.shape)) for tensor in known]
        outputs = func(*args, **given)
        equation = args[0] if name == "einsum" and isinstance(args[0], str) else ""
        for out in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
            if isinstance(out, torch.Tensor):
                self._follow(name, equation, tensors, before, out)
        return outputs

    def _follow(
        self,
        name: str,
        equation: str,
        tensors: Sequence[torch.Tensor],
        known: Sequence[tuple[torch.Tensor, int, tuple[int, ...]]],
        out: torch.Tensor,
    ) -> None:
        """Find the rows in what a function gives.

        Args:
            equation: of `torch.einsum`.
            tensors: the arguments.
            known: those whose rows are known, with the dimension of these, and their shapes.
            out: of any shape.

        Raises:
            RowsMeetError: they are in two dimensions of it.
        """
        dims = {id(tensor): dim for tensor, dim, _ in known}
        if equation:
            row = _in_einsum(equation, tensors, dims)
        elif name in _MATMUL or name == "linear":
            row = _in_product(name, tensors, dims, out.dim())
        elif name in _LOSING:
            row = None
        else:
            places = [_place(tensor, dim, shape, out, tensors) for tensor, dim, shape in known]
            if name in _ELEMENTWISE and len({place for place in places if place is not None}) > 1:
                raise RowsMeetError
            row = next((place for place in places if place is not None), None)
        if row is None:
            self._rows.pop(out, None)
        else:
            self._rows[out] = row


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in arguments or outputs."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _tensors(entry)


def _in_product(name: str, tensors: Sequence[torch.Tensor], dims: Mapping[int, int], out_dim: int) -> int | None:
    """Where rows are in a product [..., M, N] of tensors [..., M, K] and [..., K, N]; of `linear`, the second is [N, K]."""
    left, right = tensors[:2] if name != "__rmatmul__" else (tensors[1], tensors[0])
    if left.dim() < 2 or right.dim() < 2:
        return None
    of_left, of_right = dims.get(id(left)), dims.get(id(right))
    a = None if of_left is None else of_left - left.dim()
    b = None if of_right is None else of_right - right.dim()
    if name == "linear" and b is not None:
        b = -3 - b  # as in its transpose
    is_summed_left, is_summed_right = a == -1, b == -2
    if a is not None and b is not None and is_summed_left == is_summed_right and (is_summed_left or a != b):
        raise RowsMeetError
    if is_summed_left or is_summed_right:
        return None
    place = a if a is not None else b
    return None if place is None else out_dim + place


def _in_einsum(equation: str, tensors: Sequence[torch.Tensor], dims: Mapping[int, int]) -> int | None:
    """Where rows are in the outcome of `torch.einsum`: by the letter of their dimension."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    rows: set[str] = set()
    for letters, tensor in zip(inputs.split(","), tensors, strict=False):
        if id(tensor) in dims:
            rows.add(_spelled(letters, tensor.dim())[dims[id(tensor)]])
    if len(rows) > 1:
        raise RowsMeetError
    if not arrow:
        return None
    others = (
        tensor.dim() - len(letters.replace("...", ""))
        for letters, tensor in zip(inputs.split(","), tensors, strict=False)
    )
    left = _spelled(output, len(output.replace("...", "")) + (max(others) if "..." in output else 0))
    if len(dims) > 1 and rows.isdisjoint(left):
        raise RowsMeetError
    return next((at for at, letter in enumerate(left) if letter in rows), None)


def _spelled(letters: str, dim: int) -> list[str]:
    """The letter of each dimension of a tensor; those that "..." stands for are counted from the right."""
    before, dots, after = letters.partition("...")
    others = dim - len(before) - len(after)
    return [*before, *(f".{others - at}" for at in range(others if dots else 0)), *after]


def _place(
    tensor: torch.Tensor, row: int, shape: tuple[int, ...], out: torch.Tensor, tensors: Sequence[torch.Tensor]
) -> int | None:
    """Which dimension of the outcome of a function has the rows of an argument; None = not known.

    Args:
        tensor: the argument.
        row: the dimension of its rows.
        shape: of the argument.
        tensors: all arguments. Where the outcome has as many dimensions as one of these, they are taken for broadcast.
    """
    rows = shape[row]
    if out is tensor:
        return row
    if _shares_memory(out, tensor):
        moved = [at for at in range(out.dim()) if out.shape[at] == rows and out.stride(at) == tensor.stride(row)]
        if moved:
            return moved[0]
        is_flat = row == 0 and out.numel() == tensor.numel() and out.dim() > 0 and out.shape[0] % rows == 0
        return 0 if is_flat else None
    is_broadcast = out.dim() == max(given.dim() for given in tensors)
    place = out.dim() - len(shape) + row if is_broadcast else row
    return place if 0 <= place < out.dim() and out.shape[place] > 0 and out.shape[place] % rows == 0 else None


def _shares_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # of a tensor without memory
        return False
