"""Defects of bottlenecks and of their hypercomplex layers."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from adapter_runtime.methods.bottleneck import phm
from adapter_runtime.methods.bottleneck.module import Bottleneck
from adapter_runtime.methods.table import METHODS
from conformance.defects.planting import BERT, Defect, Patch, around


def _without_scale(transform: Any, self: Bottleneck, entry: Tensor) -> Tensor:
    return transform(self, entry) / (self.scaling if self.is_scaled else 1.0)


def _rule_per_layer(patch: Patch) -> None:
    spec = METHODS["bottleneck"]
    changed = lambda model, name, config: spec.place(model, name, config.replace(shared_phm_rule=False))  # noqa: E731
    patch.setitem(METHODS, spec.name, dataclasses.replace(spec, place=changed))


BOTTLENECK = {
    "zero start: a bottleneck forgets its residual": Defect(
        around(Bottleneck, "forward", lambda forward, self, x, r, norm: forward(self, x, r, norm) - x),
        "zero start",
        ("double_seq_bn", "compacter"),
    ),
    "reference: the norm of a post-norm site is left out": Defect(
        around(Bottleneck, "before", lambda before, self, x, r, norm: before(self, x, r, None)),
        "reference",
        ("seq_bn",),
        BERT,
    ),
    "reference: the scale of a parallel bottleneck is missing": Defect(
        around(Bottleneck, "transform", _without_scale), "reference", ("par_bn",)
    ),
    "reference: the rule of a Kronecker product is transposed": Defect(
        around(phm, "kronecker_sum", lambda product, rule, factor: product(rule.mT, factor)),
        "reference",
        ("compacter",),
    ),
    "liveness: each hypercomplex layer has a rule of its own": Defect(_rule_per_layer, "liveness", ("compacter",)),
}
