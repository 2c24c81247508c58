"""From a softmax back to the products that its scores are made of, with all that happens to them on the way."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from adapter_codegen.plan.attention.core import Reason, Term, Trouble
from adapter_codegen.plan.attention.kinds.products import Product, as_product, is_weight
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import How, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, DROPOUTS, VIEWS, called, is_number, is_scalar, last_name, operand

# Functions and methods that scores, or attention weights, still are scores or weights after.
_BOUNDING = frozenset({"tanh", "clamp", "clip"})
_HIDING = frozenset({"masked_fill", "masked_fill_"})
_MASKING = _HIDING | {"where"}
_ARITHMETIC = frozenset({"add", "add_", "mul", "div", "sub", "max"})
_STEPS = VIEWS | CASTS | DROPOUTS | _BOUNDING | _MASKING | _ARITHMETIC | frozenset({"softmax", "cat", "expand"})
_HARMLESS = VIEWS | CASTS | DROPOUTS | _BOUNDING


class Scores:
    """What stands behind the operand of a softmax. Everything is found by the constructor.

    Args:
        only: the product that gives the scores, where others are added to it. None: all products of activations are scores.
    """

    def __init__(self, operand: Value, scene: Scene, only: Product | None = None) -> None:
        self.products: list[Product] = []
        self.terms: list[Term] = []
        self.troubles: list[Trouble] = []
        self._scene = scene
        self._only = None if only is None else only.value
        self._known: dict[int, bool] = {}
        self._back(operand)

    def _back(self, value: Value) -> bool:
        """Whether a product was found behind `value`."""
        value = same_tensor(value)
        if id(value) not in self._known:
            self._known[id(value)] = bool(self.products)  # what a loop says of itself
            self._known[id(value)] = self._find(value)
        return self._known[id(value)]

    def _find(self, value: Value) -> bool:
        product = as_product(value)
        if product is not None and not (is_weight(product.left) or is_weight(product.right)):
            if self._only not in (None, value):
                return False
            self.products.append(product)
            self._bias_of(product)
            return True
        if value.op is Op.JOIN:
            return self._any(value.inputs)
        if value.op is Op.BINARY:
            return self._binary(value)
        if value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in _STEPS:
            return self._call(value)
        if value.op is Op.SUBMODULE and value.through is None and value.inputs:
            return self._scene.kind(value) in (Kind.DROPOUT, Kind.IDENTITY) and self._back(value.inputs[0])
        if value.how is How.ITEM_ASSIGNMENT:
            return self._written_into(value)
        if value.op in (Op.ITEM, Op.OTHER) and value.inputs:
            found = self._back(value.inputs[0])
            if found and value.op is Op.ITEM:
                self.troubles.append(Trouble(Reason.SLICED, value.node))
            return found
        return False

    def _written_into(self, value: Value) -> bool:
        """``whole[:, :n] = scores``: windows of scores are put together, whose keys no longer stand in one row."""
        whole, part = value.inputs[0], value.inputs[1:2]
        found = self._any(part)
        if found:
            self.troubles.append(Trouble(Reason.WINDOWS, value.node))
        return self._back(whole) or found

    def _any(self, values: Sequence[Value]) -> bool:
        found = [self._back(value) for value in values if not value.is_none]  # all of them: each may hold a product
        return any(found)

    def _bias_of(self, product: Product) -> None:
        """``bias.baddbmm(q, k)`` adds to the product; ``torch.empty`` there stands for nothing."""
        if last_name(product.value) != "baddbmm" or len(product.value.inputs) < 1:
            return
        given = product.value.inputs[0]
        bias = same_tensor(given)
        if not called(bias, "empty", "zeros") and bias is not same_tensor(product.left):
            self.terms.append(Term(bias, _argument(product.value, 0, "input"), product.value.frame))

    def _binary(self, value: Value) -> bool:
        sides = _sides(value)
        found = [self._back(operand) for operand in value.inputs]
        if not any(found):
            return False
        for added, side, has_product in zip(value.inputs, sides, found, strict=True):
            harmless = is_number(added) if value.is_sum else is_scalar(added)
            if has_product or harmless:
                continue
            if value.is_sum:
                is_target = isinstance(value.node, cst.AugAssign) and side is value.node.target
                self.terms.append(Term(added, side, None if is_target else value.frame))
            else:
                self.troubles.append(Trouble(Reason.COMBINED, value.node, value.operator))
        return True

    def _call(self, value: Value) -> bool:
        name = last_name(value)
        # Both branches of ``torch.where(condition, x, y)`` may hold a product.
        tensors = value.inputs[1:] if name == "where" and value.op is Op.FUNCTION else value.inputs[:1]
        if name == "cat" and tensors and same_tensor(tensors[0]).op is Op.TUPLE:
            tensors = same_tensor(tensors[0]).inputs
        found = self._any(tensors)
        if found and (mask := hidden_by(value)) is not None:
            self.terms.append(mask)
        elif found and name not in _HARMLESS:
            self.troubles.append(Trouble(Reason.CALLED, value.node, name))
        return found


def hidden_by(value: Value) -> Term | None:
    """What says which scores or weights are replaced: the mask of ``masked_fill``."""
    mask = operand(value, 1, "mask") if called(value, *_HIDING) else None
    return None if mask is None else Term(mask, _argument(value, 1, "mask"), value.frame, hides=True)


def _argument(call: Value, index: int, keyword: str) -> cst.BaseExpression:
    """What is written for an operand; the first one of a method stands in front of it."""
    assert isinstance(call.node, cst.Call)
    plain = [argument.value for argument in call.node.args if argument.keyword is None]
    named = {argument.keyword.value: argument.value for argument in call.node.args if argument.keyword is not None}
    position = index - (call.op is Op.METHOD)
    if position < 0 and isinstance(call.node.func, cst.Attribute):
        return call.node.func.value
    return plain[position] if position < len(plain) else named[keyword]


def _sides(value: Value) -> tuple[cst.BaseExpression, cst.BaseExpression]:
    node = value.node
    if isinstance(node, cst.AugAssign):
        return node.target, node.value
    assert isinstance(node, cst.BinaryOperation)
    return node.left, node.right


def keeps_weights(value: Value, scene: Scene) -> bool:
    """Whether attention weights that go into `value` come out of it as attention weights."""
    if value.op is Op.SUBMODULE:
        return scene.is_call_of(value, Kind.DROPOUT, Kind.IDENTITY) or value.through is not None
    if value.op is Op.BINARY:
        return value.operator in "*+/-"
    if value.op in (Op.METHOD, Op.FUNCTION):
        return last_name(value) in _STEPS | {"nan_to_num"} or value.through is not None
    return value.op in (Op.JOIN, Op.PARAMETER, Op.ITEM, Op.HELPER)
