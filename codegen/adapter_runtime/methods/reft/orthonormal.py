"""A matrix with orthonormal rows as a learned parameter, in the format of files of `adapters`.

Files hold what ``torch.nn.utils.parametrizations.orthogonal`` keeps: ``original`` [R, H], whose part below the diagonal of its
transpose holds R Householder reflectors, and ``base`` [H, H], a fixed rotation. The matrix is ``(base @ Q(original)) ^ T``.

Torch also multiplies by the integer part of the diagonal of `original`, which it sets to -1 and does not train. Weight decay
moves it to -0.99997, integer part 0, and the matrix is gone. Here only its sign counts, and files get exactly -1 or 1. What
decays is the reflectors, whose length never mattered to the orthonormality: weight decay pulls the rows back to where they
began, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.errors import InvalidConfigError


def check_rows(width: int, rows: int) -> None:
    """Raise where there are no R orthonormal rows of width H.

    Raises:
        InvalidConfigError: R is greater than H.
    """
    if rows > width:
        raise InvalidConfigError(f"{rows} vectors of width {width} cannot be orthonormal. Choose r <= {width}.")


class OrthonormalRows(nn.Module):
    """R orthonormal rows of width H.

    Shapes: R rows, H hidden.

    Raises:
        InvalidConfigError: R is greater than H.
    """

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        check_rows(width, rows)
        # The names of the children are those of torch's parametrisation.
        self.parametrizations = nn.ModuleDict({"weight": _Reflections(width, rows)})

    def rows(self) -> torch.Tensor:
        """[R, H], orthonormal, at least in single precision.

        It is computed whenever it is asked for, once per layer and call: what would be remembered could not be told from
        what training, loading or averaging made of the parameters since.
        """
        return self._reflections.rows()

    def set_rows(self, rows: torch.Tensor) -> None:
        """Begin anew at `rows` [R, H], which are orthonormal."""
        self._reflections.begin_at(rows)

    @property
    def _reflections(self) -> _Reflections:
        found = self.parametrizations["weight"]
        assert isinstance(found, _Reflections)
        return found


class _Reflections(nn.Module):
    """The tensors ``original`` and ``0.base``, under the keys that torch's parametrisation gives them."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.original = nn.Parameter(torch.zeros(rows, width))
        self.add_module("0", nn.Module())
        self.get_submodule("0").register_buffer("base", torch.zeros(width, width))
        self.begin_at(torch.linalg.qr(torch.randn(width, rows)).Q.mT)

    @property
    def base(self) -> torch.Tensor:
        return self.get_submodule("0").get_buffer("base")

    @torch.no_grad()
    def begin_at(self, rows: torch.Tensor) -> None:
        # The first R columns of a complete QR decomposition are those of the input, each up to its sign.
        complete, triangle = torch.linalg.qr(rows.mT.to(_precision(rows)), mode="complete")
        complete[:, : rows.shape[0]] *= triangle.diagonal().sign()
        self.base.copy_(complete.mT if self.is_square else complete)
        self.original.zero_()
        self.original.fill_diagonal_(-1.0)

    @property
    def is_square(self) -> bool:
        """Torch uses another map for square matrices, ``base @ exp(A)`` with a skew-symmetric A, and does not transpose."""
        return self.original.shape[0] == self.original.shape[1]

    def rows(self) -> torch.Tensor:
        precision = _precision(self.original)
        original, base = self.original.to(precision), self.base.to(precision)
        if self.is_square:
            lower = original.tril()
            rows: torch.Tensor = base @ torch.matrix_exp(lower - lower.mT)
        else:
            reflectors = original.mT.tril(-1)  # (H, R)
            factors = 2.0 / (1.0 + reflectors.square().sum(dim=0))
            columns = torch.linalg.householder_product(reflectors, factors) * self.signs().to(precision)
            rows = (base @ columns).mT
        if self.base.dtype != precision:
            # Rounding took the base off the rotations by e; one step of Newton's method for the nearest leaves e^2.
            rows = 1.5 * rows - 0.5 * (rows @ rows.mT) @ rows
        return rows

    def signs(self) -> torch.Tensor:
        """[R]: 1 or -1. Torch writes -1, and so -1 is also what an optimizer leaves that moved the diagonal to zero."""
        return (self.original.detach().diagonal() > 0.5).to(self.original.dtype) * 2 - 1

    def _save_to_state_dict(self, destination: dict[str, torch.Tensor], prefix: str, keep_vars: bool) -> None:
        if not self.is_square and not self.original.is_meta:
            with torch.no_grad():  # changes nothing: only the signs are read
                self.original.diagonal().copy_(self.signs())
        super()._save_to_state_dict(destination, prefix, keep_vars)


def _precision(tensor: torch.Tensor) -> torch.dtype:
    """In what to compute: at least single precision."""
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def nearest_orthonormal(matrices: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The orthonormal rows that are nearest to the weighted sum of matrices [R, H]: its polar factor.

    Raises:
        InvalidConfigError: the sum has no such factor, because directions cancel out.
    """
    total = sum((matrix * weight for matrix, weight in zip(matrices, weights, strict=True)), torch.zeros(()))
    left, sizes, right = torch.linalg.svd(total.detach(), full_matrices=False)
    if float(sizes[-1]) <= 1e-6:
        raise InvalidConfigError(
            "The orthonormal projections of these ReFT adapters cancel out in the average, so that no projection is nearest "
            "to it. Choose other weights, or run the adapters together: Average(...)."
        )
    nearest: torch.Tensor = left @ right
    return nearest
