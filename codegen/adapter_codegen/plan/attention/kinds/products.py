"""Products of two tensors, as models write them."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import called, is_scalar, last_name

_PRODUCTS = frozenset({"matmul", "bmm", "einsum", "baddbmm"})
_TRANSPOSES = frozenset({"transpose", "permute", "swapaxes", "mT"})


@dataclass(frozen=True, eq=False)
class Product:
    value: Value
    left: Value
    right: Value
    left_node: cst.BaseExpression
    right_node: cst.BaseExpression


def as_product(value: Value) -> Product | None:
    """``a @ b``, ``torch.matmul(a, b)``, ``a.bmm(b)``, ``torch.einsum("...", a, b)``, ``torch.baddbmm(c, a, b)``.

    The operands of einsum may stand in a tuple.
    """
    if value.op is Op.BINARY and value.operator == "@" and isinstance(value.node, cst.BinaryOperation):
        return Product(value, value.inputs[0], value.inputs[1], value.node.left, value.node.right)
    if not called(value, *_PRODUCTS) or not isinstance(value.node, cst.Call):
        return None
    inputs = list(value.inputs)
    nodes = [argument.value for argument in value.node.args if argument.keyword is None]
    if called(value, "einsum") and inputs and nodes and isinstance(nodes[-1], cst.List | cst.Tuple):
        listed = same_tensor(inputs.pop())
        inputs += listed.inputs  # ``torch.einsum("...", [a, b])``
        nodes[-1:] = [element.value for element in nodes[-1].elements]
    if value.op is Op.METHOD and isinstance(value.node.func, cst.Attribute):
        nodes.insert(0, value.node.func.value)
    for name in ("input", "mat2", "other", "batch1", "batch2"):
        given = value.keyword(name)
        if given is not None:
            inputs.append(given)
            nodes += [arg.value for arg in value.node.args if arg.keyword is not None and arg.keyword.value == name]
    if last_name(value) == "einsum" and isinstance(nodes[-1], cst.Tuple) and inputs[-1].op is Op.TUPLE:
        nodes = [element.value for element in nodes[-1].elements]
        inputs = list(inputs[-1].inputs)
    if len(inputs) < 2 or len(nodes) != len(inputs):
        return None
    return Product(value, inputs[-2], inputs[-1], nodes[-2], nodes[-1])


def is_weight(value: Value) -> bool:
    """A parameter of the module, maybe seen from another side: no activation."""
    value = same_tensor(value)
    if called(value, "einsum"):  # of weights alone: an activation that is projected by one is an activation
        return all(is_weight(one) for one in value.inputs if not _is_equation(one))
    while value.op in (Op.METHOD, Op.ITEM, Op.ATTRIBUTE, Op.FUNCTION) and value.inputs:
        if value.op is Op.ATTRIBUTE and value.inputs[0].is_module:
            return True
        value = same_tensor(value.inputs[0])
    return value.op in (Op.CONSTANT, Op.GLOBAL, Op.SELF, Op.MODULE)


def is_own_weight(value: Value) -> bool:
    """``self.o``, a parameter of the module that runs."""
    value = same_tensor(value)
    return value.op is Op.ATTRIBUTE and value.inputs[0].op is Op.SELF


def _is_equation(value: Value) -> bool:
    """``"ibh,hnd->ibnd"``"""
    return value.op is Op.CONSTANT and value.literal[:1] in ("'", '"')


def before_scaling(node: cst.BaseExpression, value: Value) -> tuple[cst.BaseExpression, Value]:
    """``k`` of ``k / scale`` and of ``k * scale``, where the scale is a number: the expression and its value."""
    while isinstance(node, cst.BinaryOperation) and value.op is Op.BINARY and value.operator in "*/":
        if not is_scalar(value.inputs[1]):
            break
        node, value = node.left, value.inputs[0]
    return node, value


def before_transposition(node: cst.BaseExpression) -> cst.BaseExpression:
    """``k`` of ``k.transpose(-1, -2)``."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _TRANSPOSES:
        return node.func.value
    if isinstance(node, cst.Attribute) and node.attr.value in ("mT", "T"):
        return node.value
    return node


def value_before_transposition(value: Value) -> Value:
    if value.op in (Op.METHOD, Op.ATTRIBUTE) and value.name in (*_TRANSPOSES, "T") and value.inputs:
        return value.inputs[0]
    return value


def is_plain_transposition(value: Value) -> bool:
    """``k.transpose(-1, -2)``: the last two dimensions are swapped, of the four that keys have."""
    if value.op is Op.ATTRIBUTE and value.name == "mT":
        return True
    if value.op is not Op.METHOD or value.name not in ("transpose", "swapaxes"):
        return False
    assert isinstance(value.node, cst.Call)
    dimensions = sorted(cst.Module([]).code_for_node(argument.value) for argument in value.node.args)
    return dimensions in (["-1", "-2"], ["2", "3"], ["-1", "2"], ["-2", "3"])
