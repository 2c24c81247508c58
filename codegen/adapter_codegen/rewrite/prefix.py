"""The edit at an attention core: prefix keys and values are put in front, and the mask grows with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Expression, PrefixSite
from adapter_codegen.rewrite.copied import Copied
from adapter_codegen.rewrite.edit import Edit, Insert, Operand, Replace


def prefix_edits(function: Copied) -> Iterator[Edit]:
    for site in function.prefix_sites:
        yield from _edits(function, site)


def _edits(function: Copied, site: PrefixSite) -> Iterator[Edit]:
    owner = function.first_parameter
    key, value = (
        _bound(function, site, one, f"prefixed_{n}") for n, one in (("key", site.key), ("value", site.value))
    )
    mask = _bound(function, site, site.mask, "prefixed_mask") if site.mask else "_"
    if len({key, value, mask}) < 3:
        raise Problem.SAME_NAMES.error(site.location)
    arguments = (site.query.code, site.key.code, site.value.code, site.mask.code if site.mask else "None")
    call = f"{owner}.prepend_prefix({', '.join((*arguments, site.gate_input.code, *site.keywords))})"
    biases = [(_bound(function, site, bias, "prefixed_bias"), bias) for bias in site.biases]
    grown = (f"{name} = {owner}.extend_bias({bias.code}, {key})" for name, bias in biases)
    yield Insert(function.statement(site.statement), (f"{key}, {value}, {mask} = {call}", *grown))
    for term in site.late:
        yield Replace(function.replaced(term.location), _call(f"{owner}.extend_bias", term, key))
    if site.scores is not None:
        yield Replace(
            function.replaced(site.scores.location),
            _call(f"{owner}.hide_prefixes", site.scores, key, site.gate_input.code),
        )
    named = [(key, site.key), (value, site.value), *biases]
    for name, expression in [*named, (mask, site.mask)] if site.mask else named:
        if name != expression.code:
            yield Replace(function.replaced(expression.location), _name(name))


def _bound(function: Copied, site: PrefixSite, expression: Expression, fallback: str) -> str:
    """The name under which the grown tensor is known: its own, where it has one that is not read again later."""
    own = expression.code.isidentifier() and expression.code != "None" and expression.code not in site.kept
    return expression.code if own else function.fresh(fallback)


def _call(function: str, first: Expression, *others: str) -> Callable[[Operand], cst.CSTNode]:
    """``self.extend_bias(bias, key)``, with the edits inside of the first argument made."""

    def build(operand: Operand) -> cst.Call:
        arguments = [operand(first), *map(cst.Name, others)]
        return cst.Call(cst.parse_expression(function), [cst.Arg(argument) for argument in arguments])

    return build


def _name(name: str) -> Callable[[Operand], cst.CSTNode]:
    def build(operand: Operand) -> cst.Name:
        return cst.Name(name)

    return build
