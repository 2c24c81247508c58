"""Defects of ReFT: where it edits, and what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adapter_runtime.call.rows import TokenSpans
from adapter_runtime.methods.reft.module import ReftUnit
from adapter_runtime.methods.reft.orthonormal import _Reflections
from conformance.defects.planting import BERT, Defect, Patch, Plant, around


def _spans(change: Callable[[TokenSpans], TokenSpans]) -> Plant:
    """Real tokens are taken to be somewhere else."""

    def plant(patch: Patch) -> None:
        read = TokenSpans.read
        patch.setattr(TokenSpans, "read", staticmethod(lambda *args: change(read(*args))))

    return plant


def _off_by_one(spans: TokenSpans) -> TokenSpans:
    return replace(spans, first=spans.first + (spans.first > 0).long())


def _from_the_padding(spans: TokenSpans) -> TokenSpans:
    return replace(spans, first=torch.zeros_like(spans.first))


def _to_the_padding(spans: TokenSpans) -> TokenSpans:
    return replace(spans, end=torch.full_like(spans.end, spans.length))


def _subtracts(init: Any, self: ReftUnit, config: Any, width: int) -> None:
    init(self, config.replace(subtract_projection=not config.subtract_projection), width)


def _in_the_raw_basis(rows: Any, self: _Reflections) -> Tensor:
    return rows(self) @ self.base  # base^T from the right would only rotate


ON_LEFT_PADDING, ON_RIGHT_PADDING = _spans(_from_the_padding), _spans(_to_the_padding)

REFT = {
    "reference: ReFT starts one token late where padding stands on the left": Defect(
        _spans(_off_by_one), "reference", ("loreft", "noreft", "direft")
    ),
    "reference: ReFT edits the padding on the left": Defect(
        ON_LEFT_PADDING, "reference", ("loreft", "noreft", "direft"), BERT
    ),
    "reference: ReFT edits the padding on the right": Defect(ON_RIGHT_PADDING, "reference", ("noreft",), BERT),
    "reference: DiReFT subtracts, and the others do not": Defect(
        around(ReftUnit, "__init__", _subtracts), "reference", ("loreft", "noreft", "direft")
    ),
    "reference: orthonormal rows leave their basis": Defect(
        around(_Reflections, "rows", _in_the_raw_basis), "reference", ("loreft",)
    ),
}
