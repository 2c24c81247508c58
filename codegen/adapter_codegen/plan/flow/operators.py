"""Operators of two operands, in expressions and in augmented assignments."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.plan.flow.activation import Activation
from adapter_codegen.plan.flow.values import Op, Value

_OPERATORS: dict[type[cst.CSTNode], str] = {
    cst.Add: "+",
    cst.Subtract: "-",
    cst.Multiply: "*",
    cst.Divide: "/",
    cst.FloorDivide: "//",
    cst.MatrixMultiply: "@",
    cst.Modulo: "%",
    cst.Power: "**",
    cst.BitAnd: "&",
    cst.BitOr: "|",
    cst.AddAssign: "+",
    cst.SubtractAssign: "-",
    cst.MultiplyAssign: "*",
    cst.DivideAssign: "/",
    cst.MatrixMultiplyAssign: "@",
}


def operator_of(node: cst.BinaryOperation | cst.AugAssign) -> str:
    return _OPERATORS.get(type(node.operator), "?")


def operation(run: Activation, node: cst.CSTNode, left: Value, right: Value, operator: str) -> Value:
    """``left + right``: of tuples, a longer tuple."""
    if operator == "+" and left.op is Op.TUPLE:
        rest = right.inputs if right.op is Op.TUPLE else (run.make(Op.STARRED, node, (right,)),)
        return run.make(Op.TUPLE, node, (*left.inputs, *rest))
    if operator == "+" and left.op is Op.JOIN and all(one.op is Op.TUPLE for one in left.inputs):
        return run.join(node, [operation(run, node, one, right, operator) for one in left.inputs])
    return run.make(Op.BINARY, node, (left, right), operator=operator)
