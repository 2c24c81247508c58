"""Expressions: one function per kind. An expression that no rule looks into is `Op.OTHER`, made of all its parts."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.plan.flow.activation import Activation
from adapter_codegen.plan.flow.bindings import assign, element, item, list_element
from adapter_codegen.plan.flow.calls import REGISTRY, call
from adapter_codegen.plan.flow.modules import find_submodule
from adapter_codegen.plan.flow.operators import operation, operator_of
from adapter_codegen.plan.flow.values import How, ModuleKind, Op, Value, argument_behind, same_tensor, truth


def evaluate(run: Activation, node: cst.BaseExpression) -> Value:
    """The value of an expression."""
    match node:
        case cst.Name():
            return _name(run, node)
        case cst.Integer() | cst.Float() | cst.SimpleString():
            return run.constant(node, node.value)
        case cst.Ellipsis():
            return run.constant(node, "")
        case cst.Attribute():
            return _attribute(run, node)
        case cst.Subscript():
            return _subscript(run, node)
        case cst.Tuple() | cst.List():
            return run.make(Op.TUPLE, node, [_tuple_element(run, part) for part in node.elements])
        case cst.BinaryOperation():
            return operation(run, node, run.evaluate(node.left), run.evaluate(node.right), operator_of(node))
        case cst.Call():
            return call(run, node)
        case cst.NamedExpr():
            value = run.evaluate(node.value)
            assign(run, node.target, value)
            return value
        case cst.ListComp() | cst.GeneratorExp() | cst.SetComp():
            return _comprehension(run, node)
        case cst.FormattedString() | cst.ConcatenatedString() | cst.DictComp() | cst.Lambda():
            return run.other(node)
        case _:
            return _logical(run, node) or _of_all_parts(run, node)


def _of_all_parts(run: Activation, node: cst.BaseExpression) -> Value:
    inputs = [run.evaluate(child) for child in node.children if isinstance(child, cst.BaseExpression)]
    inputs += [
        run.evaluate(grandchild)
        for child in node.children
        if not isinstance(child, cst.BaseExpression)
        for grandchild in child.children
        if isinstance(grandchild, cst.BaseExpression)
    ]
    return run.other(node, inputs)


# Names, attributes, items ---------------------------------------------------------------------------------------------


def _name(run: Activation, node: cst.Name) -> Value:
    environment = run.environment if run.environment is not None else {}
    bound = environment.get(node.value)
    if bound is not None:
        return bound
    if node.value in ("None", "True", "False"):
        return run.constant(node, node.value)
    return run.make(Op.GLOBAL, node, name=node.value)


def _attribute(run: Activation, node: cst.Attribute) -> Value:
    base = run.evaluate(node.value)
    name = node.attr.value
    if base.is_module and base.module is not None and not base.module.is_list:
        submodule = find_submodule(run.facts, base.module.classes, name)
        if submodule is not None:
            path = f"{base.path}.{name}" if base.path else name
            kind = ModuleKind(submodule.classes, submodule.in_list, submodule.places)
            return run.make(Op.MODULE, node, path=path, module=kind)
    return run.make(Op.ATTRIBUTE, node, (base,), name=name)


def _subscript(run: Activation, node: cst.Subscript) -> Value:
    base = run.evaluate(node.value)
    if base.op is Op.GLOBAL and base.name == REGISTRY:
        return run.make(Op.INTERFACE, node, (base,))
    slices = [part.slice for part in node.slice]
    indices = [index for part in slices for index in _index(run, part)]
    first = slices[0]
    if base.is_module and base.module is not None and base.module.is_list:
        if not isinstance(first, cst.Index):
            return base
        return list_element(run, node, base, base.module, _literal_index(first.value))
    literal = _literal_index(first.value) if len(slices) == 1 and isinstance(first, cst.Index) else ""
    if literal:
        return item(run, node, base, literal, indices)
    return run.make(Op.ITEM, node, (base, *indices))


def _index(run: Activation, part: cst.BaseSlice) -> list[Value]:
    if isinstance(part, cst.Index):
        return [run.evaluate(part.value)]
    if isinstance(part, cst.Slice):
        ends = [end for end in (part.lower, part.upper, part.step) if end is not None]
        return [run.other(part, [run.evaluate(end) for end in ends], How.SLICE)]
    return []


def _literal_index(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Integer):
        return node.value
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        inner = _literal_index(node.expression)
        return f"-{inner}" if inner else ""
    if isinstance(node, cst.SimpleString):
        return node.raw_value
    return ""


def _tuple_element(run: Activation, part: cst.BaseElement) -> Value:
    value = run.evaluate(part.value)
    return run.make(Op.STARRED, part, (value,)) if isinstance(part, cst.StarredElement) else value


def _comprehension(run: Activation, node: cst.ListComp | cst.GeneratorExp | cst.SetComp) -> Value:
    if run.environment is None:
        return run.other(node)
    outer = dict(run.environment)
    clause: cst.CompFor | None = node.for_in
    iterated = run.evaluate(node.for_in.iter)
    listed = same_tensor(iterated)
    if listed.op is Op.TUPLE and _only_filters(node):
        return run.other(node, listed.inputs, How.FILTERED)
    if listed.op is Op.TUPLE and _is_of_each(node) and all(part.op is not Op.STARRED for part in listed.inputs):
        return _of_each(run, node, listed.inputs, outer)
    while clause is not None:
        assign(run, clause.target, element(run, clause.iter, iterated))
        clause = clause.inner_for_in
        iterated = run.evaluate(clause.iter) if clause is not None else iterated
    made = run.evaluate(node.elt)
    run.environment = outer
    return run.other(node, (made,), How.COMPREHENSION)


def _is_of_each(node: cst.ListComp | cst.GeneratorExp | cst.SetComp) -> bool:
    """``[f(x) for x in (a, b)]``: as many elements, in this order."""
    return not isinstance(node, cst.SetComp) and not node.for_in.ifs and node.for_in.inner_for_in is None


def _of_each(
    run: Activation,
    node: cst.ListComp | cst.GeneratorExp | cst.SetComp,
    parts: Sequence[Value],
    outer: dict[str, Value],
) -> Value:
    made = []
    for part in parts:
        assign(run, node.for_in.target, part)
        made.append(run.evaluate(node.elt))
        run.environment = dict(outer)
    return run.make(Op.TUPLE, node, made)


def _only_filters(node: cst.ListComp | cst.GeneratorExp | cst.SetComp) -> bool:
    clause = node.for_in
    same = (
        isinstance(node.elt, cst.Name)
        and isinstance(clause.target, cst.Name)
        and node.elt.value == clause.target.value
    )
    return same and bool(clause.ifs) and clause.inner_for_in is None


# Conditions -----------------------------------------------------------------------------------------------------------


def _logical(run: Activation, node: cst.BaseExpression) -> Value | None:
    """Expressions that the text may decide; None for all others."""
    match node:
        case cst.BooleanOperation():
            return _boolean(run, node)
        case cst.IfExp():
            return _conditional(run, node)
        case cst.UnaryOperation():
            return _unary(run, node)
        case cst.Comparison():
            return _comparison(run, node)
        case _:
            return None


def _boolean(run: Activation, node: cst.BooleanOperation) -> Value:
    left, right = run.evaluate(node.left), run.evaluate(node.right)
    decided = truth(left)
    if decided is not None:
        return right if decided is isinstance(node.operator, cst.And) else left
    return run.join(node, (left, right))


def _conditional(run: Activation, node: cst.IfExp) -> Value:
    decided = truth(run.evaluate(node.test))
    if decided is not None:
        return run.evaluate(node.body if decided else node.orelse)
    return run.join(node, (run.evaluate(node.body), run.evaluate(node.orelse)))


def _unary(run: Activation, node: cst.UnaryOperation) -> Value:
    inner = run.evaluate(node.expression)
    decided = truth(inner) if isinstance(node.operator, cst.Not) else None
    if decided is not None:
        return run.constant(node, str(not decided))
    return run.make(Op.UNARY, node, (inner,), operator=_UNARY.get(type(node.operator), "?"))


_UNARY: dict[type[cst.CSTNode], str] = {cst.Minus: "-", cst.Plus: "+", cst.Not: "not", cst.BitInvert: "~"}


def _comparison(run: Activation, node: cst.Comparison) -> Value:
    """``x is None`` is decided where nothing was handed in for `x`."""
    left = run.evaluate(node.left)
    values = [run.evaluate(target.comparator) for target in node.comparisons]
    operator = node.comparisons[0].operator
    is_identity = len(values) == 1 and values[0].is_none and isinstance(operator, (cst.Is, cst.IsNot))
    if is_identity and argument_behind(left).is_none:
        return run.constant(node, str(isinstance(operator, cst.Is)))
    return run.other(node, (left, *values), How.COMPARISON)
