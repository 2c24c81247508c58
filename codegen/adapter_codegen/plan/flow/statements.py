"""Statements: both branches of a condition run and their bindings are joined, unless the text decides it. A loop body
runs once, and what it bound is joined with what was bound before."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.plan.flow.activation import Activation, Arguments
from adapter_codegen.plan.flow.bindings import assign, bind_parameters, element
from adapter_codegen.plan.flow.operators import operation, operator_of
from adapter_codegen.plan.flow.values import How, Loop, Value, truth

Bindings = dict[str, Value]


def run_function(run: Activation, arguments: Arguments) -> Value:
    """Bind the arguments, run the body, and give what it returns."""
    bind_parameters(run, arguments)
    _block(run, run.function.body)
    if not run.results:
        return run.constant(run.function, "None")
    return run.join(run.function, run.results)


def _block(run: Activation, body: cst.BaseSuite) -> None:
    statements = list(body.body)
    for statement, following in zip(statements, [*statements[1:], None], strict=True):
        if run.environment is None:
            return
        if following is not None:
            run.flow.after[run.frame, statement] = following
        run.statement = statement
        if isinstance(statement, (cst.SimpleStatementLine, cst.If)):
            run.flow.before[run.frame, statement] = dict(run.environment)
        if isinstance(statement, cst.SimpleStatementLine):
            for small in statement.body:
                _small(run, small)
        elif isinstance(statement, cst.BaseCompoundStatement):
            _compound(run, statement)
        elif isinstance(statement, cst.BaseSmallStatement):  # the one-line suite of ``if x: y = z``
            _small(run, statement)


def _small(run: Activation, node: cst.BaseSmallStatement) -> None:
    if isinstance(node, cst.Assign):
        value = run.evaluate(node.value)
        for target in node.targets:
            assign(run, target.target, value)
    elif isinstance(node, cst.AnnAssign) and node.value is not None:
        assign(run, node.target, run.evaluate(node.value))
    elif isinstance(node, cst.AugAssign):
        left, right = run.evaluate(node.target), run.evaluate(node.value)
        assign(run, node.target, operation(run, node, left, right, operator_of(node)))
    elif isinstance(node, cst.Return):
        run.results.append(run.evaluate(node.value) if node.value is not None else run.constant(node, "None"))
        run.environment = None
    elif isinstance(node, cst.Raise):
        run.environment = None
    elif isinstance(node, cst.Expr):
        _in_place(run, node.value, run.evaluate(node.value))


def _in_place(run: Activation, node: cst.BaseExpression, value: Value) -> None:
    """``x.add_(y)`` as a statement binds `x` again."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        name = node.func.attr.value
        if name.endswith("_") and not name.endswith("__"):
            if isinstance(node.func.value, (cst.Name, cst.Subscript)):  # x.add_(y); x[..., :n].copy_(y)
                assign(run, node.func.value, value)


def _compound(run: Activation, node: cst.BaseCompoundStatement) -> None:
    assert run.environment is not None
    if isinstance(node, cst.If):
        _condition(run, node)
    elif isinstance(node, cst.For):
        before = dict(run.environment)
        iterated = run.evaluate(node.iter)
        assign(run, node.target, element(run, node.iter, iterated))
        entered = dict(run.environment)
        _block(run, node.body)
        if run.environment is not None:
            run.flow.loops.append(Loop(run.frame, node, before, entered, dict(run.environment)))
        run.environment = _merged(run, node, [before, run.environment])
    elif isinstance(node, cst.While):
        run.evaluate(node.test)
        _branches(run, node, [node.body, None])
    elif isinstance(node, cst.With):
        for item in node.items:
            run.evaluate(item.item)
        _block(run, node.body)
    elif isinstance(node, cst.Try):
        _block(run, node.body)
        _branches(run, node, [None, *(handler.body for handler in node.handlers)])
    elif isinstance(node, cst.FunctionDef):
        run.environment[node.name.value] = run.other(node, how=How.NESTED_FUNCTION)


def _condition(run: Activation, node: cst.If) -> None:
    decided = truth(run.evaluate(node.test))
    if decided is None:
        _branches(run, node, [node.body, node.orelse])
    else:
        _branches(run, node, [node.body if decided else node.orelse])


def _branches(run: Activation, node: cst.CSTNode, bodies: Sequence[cst.CSTNode | None]) -> None:
    """Run each body from the same bindings (None: nothing happens), and join what they end with."""
    if run.environment is None:
        return
    ends: list[Bindings | None] = []
    before = run.environment
    for body in bodies:
        run.environment = dict(before)
        if isinstance(body, cst.If):  # elif
            run.statement = body
            _compound(run, body)
        elif isinstance(body, cst.Else):
            _block(run, body.body)
        elif isinstance(body, cst.BaseSuite):
            _block(run, body)
        ends.append(run.environment)
    run.environment = _merged(run, node, ends)


def _merged(run: Activation, node: cst.CSTNode, ends: Sequence[Bindings | None]) -> Bindings | None:
    """The bindings after branches; None where none of them goes on."""
    live = [end for end in ends if end is not None]
    if not live:
        return None
    merged: Bindings = {}
    for name in dict.fromkeys(name for end in live for name in end):
        values = [end[name] for end in live if name in end]
        merged[name] = run.join(node, values)
    return merged
