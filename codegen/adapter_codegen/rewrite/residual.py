"""The edit at a residual addition: the sum, with its norm, becomes a call of the adapters that are held there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import libcst as cst

from adapter_codegen.model import ResidualSite
from adapter_codegen.rewrite.copied import Copied
from adapter_codegen.rewrite.edit import Edit, Operand, Remove, Replace


def residual_edits(function: Copied) -> Iterator[Edit]:
    for site in function.residual_sites:
        yield Replace(function.replaced(site.location), _build(function, site))
        if site.dropped is not None:
            yield Remove(function.statement(site.dropped), after=function.statement(site.statement))


def _build(function: Copied, site: ResidualSite) -> Callable[[Operand], cst.CSTNode]:
    """``r + x`` -> ``self.host(x, r, norm)``; ``r += x`` -> ``r = self.host(x, r, norm)``."""
    callee = cst.Attribute(cst.Name(function.first_parameter), cst.Name(site.host or "bottleneck_layer_forward"))
    replaced = function.replaced(site.location)

    def build(operand: Operand) -> cst.CSTNode:
        norm = operand(site.norm) if site.norm else cst.Name("None")
        call = cst.Call(callee, [cst.Arg(value) for value in (operand(site.branch), operand(site.residual), norm)])
        if isinstance(replaced, cst.AugAssign):
            return cst.Assign([cst.AssignTarget(replaced.target)], call)
        return call

    return build
