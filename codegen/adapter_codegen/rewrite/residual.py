"""The edit at a residual addition: the sum, with its norm, becomes a call of the adapters that are held there.

Where two sublayers are added in one sum, ``a + f + r``, no call of two adapters gives upstream's bits, because floats do not
associate. So upstream's sum stays in the text, for the time in which nothing runs.

Where the addition stands in a function of upstream's, or is no plain addition, it stays too: only what came out of the sublayer
goes through the adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import libcst as cst

from adapter_codegen.model import Placement, ResidualSite
from adapter_codegen.rewrite.copied import Copied
from adapter_codegen.rewrite.edit import Edit, Operand, Remove, Replace

_EQUAL = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))


def residual_edits(function: Copied) -> Iterator[Edit]:
    for site in function.residual_sites:
        yield Replace(function.replaced(site.location), _build(function, site))
        if site.dropped is not None:
            yield Remove(function.statement(site.dropped), after=function.statement(site.statement))


def _build(function: Copied, site: ResidualSite) -> Callable[[Operand], cst.CSTNode]:
    """``r + x`` -> ``self.host(x, r, norm)``; ``r += x`` -> ``r = self.host(x, r, norm)``."""
    replaced = function.replaced(site.location)

    def build(operand: Operand) -> cst.CSTNode:
        instead = _BUILDERS.get(site.placement, _call)(function, site, operand)
        if isinstance(replaced, cst.AugAssign):
            return cst.Assign([cst.AssignTarget(replaced.target)], instead)
        return instead

    return build


def _call(function: Copied, site: ResidualSite, operand: Operand) -> cst.Call:
    norm = operand(site.norm) if site.norm else cst.Name("None")
    arguments = [cst.Arg(value) for value in (operand(site.branch), _residual(site, operand), norm)]
    if site.branch_first:
        arguments.append(cst.Arg(cst.Name("True"), keyword=cst.Name("branch_first"), equal=_EQUAL))
    return cst.Call(_host(function, site, site.hosts[-1]), arguments)


def _branch(function: Copied, site: ResidualSite, operand: Operand) -> cst.Call:
    """``self.host(x, r)`` in the place of ``x``; ``self.host(x)`` where there is no single stream."""
    return cst.Call(
        _host(function, site, site.hosts[-1]),
        [cst.Arg(operand(part)) for part in (site.branch, site.residual) if part is not None],
    )


def _parallel(function: Copied, site: ResidualSite, operand: Operand) -> cst.IfExp:
    """``self.host(f, self.beside(a, r, None), None) if self.beside.runs or self.host.runs else a + f + r``."""
    assert site.beside is not None
    beside, own = (_host(function, site, name) for name in site.hosts)
    inner = cst.Call(beside, _arguments(operand(site.beside.branch), _residual(site, operand)))
    runs = [cst.Attribute(host, cst.Name("runs")) for host in (beside, own)]
    return cst.IfExp(
        test=cst.BooleanOperation(runs[0], cst.Or(), runs[1]),
        body=cst.Call(own, _arguments(operand(site.branch), inner)),
        orelse=_sum_of(function, site),
        lpar=[cst.LeftParen()],
        rpar=[cst.RightParen()],
    )


def _sum_of(function: Copied, site: ResidualSite) -> cst.BaseExpression:
    """Upstream's own sum, as an expression."""
    replaced = function.replaced(site.location)
    if isinstance(replaced, cst.AugAssign):
        value = replaced.value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        return cst.BinaryOperation(replaced.target, cst.Add(), value)
    assert isinstance(replaced, cst.BinaryOperation)
    return replaced.deep_clone()


_BUILDERS: dict[Placement, Callable[[Copied, ResidualSite, Operand], cst.BaseExpression]] = {
    Placement.PARALLEL_SUM: _parallel,
    Placement.BRANCH: _branch,
}


def _residual(site: ResidualSite, operand: Operand) -> cst.BaseExpression:
    assert site.residual is not None  # only with BRANCH there may be none
    return operand(site.residual)


def _arguments(branch: cst.BaseExpression, residual: cst.BaseExpression) -> list[cst.Arg]:
    return [cst.Arg(branch), cst.Arg(residual), cst.Arg(cst.Name("None"))]


def _host(function: Copied, site: ResidualSite, name: str) -> cst.Attribute:
    holder = cst.parse_expression(site.holder) if site.holder else cst.Name(function.first_parameter)
    return cst.Attribute(holder, cst.Name(name))
