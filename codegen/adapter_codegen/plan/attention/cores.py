"""Where keys and values meet queries: find every attention core in a flow.

A core is a call of what the attention registry gave, a call of ``scaled_dot_product_attention``, or a softmax between two
products of activations. Whether prefix keys can be put in front of it is asked in `prefix`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import libcst as cst

from adapter_codegen.model import Core
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.values import Consumers, Flow, Op, Value, alternatives, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, DROPOUTS, VIEWS, called, is_number, is_scalar, last_name, operand

_INTERFACE_PARAMETERS = ("module", "query", "key", "value", "attention_mask")
_SDPA_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
_FLASH = frozenset(
    {"_flash_attention_forward", "flash_attn_func", "flash_attn_varlen_func", "memory_efficient_attention"}
)
_PRODUCTS = frozenset({"matmul", "bmm", "einsum", "baddbmm"})
_TRANSPOSES = frozenset({"transpose", "permute", "swapaxes", "mT"})
_TUNING = frozenset(
    [
        "masked_fill",
        "masked_fill_",
        "where",
        "tanh",
        "clamp",
        "clip",
        "add",
        "mul",
        "div",
        "sub",
        "max",
        "softmax",
        "cat",
        "expand",
        "add_",
    ]
)


@dataclass(frozen=True, eq=False)
class Meeting:
    """One attention core in a flow."""

    core: Core
    call: Value  # the interface call, the sdpa call, or the first product
    result: Value  # what holds the attended values: the call, or the second product
    query: Value
    key: Value
    value: Value
    nodes: dict[str, cst.BaseExpression]  # expression of each argument: query, key, value, mask
    mask: Value | None
    terms: tuple[tuple[Value, cst.BaseExpression], ...] = ()  # SOFTMAX: what is added to the scores
    troubles: tuple[tuple[str, cst.CSTNode], ...] = ()  # SOFTMAX: what else happens to the scores

    @property
    def path(self) -> str:
        return self.call.frame.path

    @property
    def is_lifted(self) -> bool:
        """SOFTMAX: whether `call` is the call of the function that holds the products."""
        return self.core is Core.SOFTMAX and self.call is self.result


def find_meetings(flow: Flow, kinds: Kinds) -> list[Meeting]:
    """The attention cores of a flow, in order."""
    consumers = Consumers(flow.values)
    found: list[Meeting] = []
    for value in flow.values:
        if value.op is Op.CALL and _is_interface(value.inputs[0]):
            found += _interface_call(value)
        elif value.op is Op.FUNCTION and last_name(value) == "scaled_dot_product_attention" and value.through is None:
            found += _sdpa_call(value)
        elif value.op is Op.FUNCTION and last_name(value) in _FLASH and value.through is None:
            found += _flash_call(value)
        elif _is_softmax(value):
            found += _softmax(value, kinds, consumers)
    return list({id(one.call): one for one in found}.values())


def _is_interface(callee: Value) -> bool:
    return any(one.op is Op.INTERFACE for one in alternatives(callee))


# Calls ----------------------------------------------------------------------------------------------------------------


def _interface_call(call: Value) -> list[Meeting]:
    arguments, nodes = _bound(call, _INTERFACE_PARAMETERS, call.inputs[1:])
    if not {"query", "key", "value"} <= arguments.keys():
        return []
    if "attention_mask" in nodes:
        nodes["mask"] = nodes["attention_mask"]
    three = (arguments["query"], arguments["key"], arguments["value"])
    return [Meeting(Core.INTERFACE, call, call, *three, nodes, arguments.get("attention_mask"))]


def _sdpa_call(call: Value) -> list[Meeting]:
    arguments, nodes = _bound(call, _SDPA_PARAMETERS, call.inputs)
    if not {"query", "key", "value"} <= arguments.keys():
        return []
    if "attn_mask" in nodes:
        nodes["mask"] = nodes["attn_mask"]
    three = (arguments["query"], arguments["key"], arguments["value"])
    return [Meeting(Core.SDPA, call, call, *three, nodes, arguments.get("attn_mask"))]


def _flash_call(call: Value) -> list[Meeting]:
    """A kernel called past the attention registry: it knows no mask with a prefix."""
    trouble = ("the flash attention kernel is called directly", call.node)
    return [replace(one, troubles=(trouble,)) for one in _sdpa_call(call)]


def _bound(
    call: Value, parameters: tuple[str, ...], positional: tuple[Value, ...]
) -> tuple[dict[str, Value], dict[str, cst.BaseExpression]]:
    """Arguments by the name of their parameter, as values and as expressions."""
    values = {name: value for name, value in call.keywords if name != "**"}
    nodes = {arg.keyword.value: arg.value for arg in _call_node(call).args if arg.keyword is not None}
    plain = [arg.value for arg in _call_node(call).args if arg.keyword is None and not arg.star]
    values.update(zip(parameters, positional, strict=False))
    nodes.update(zip(parameters, plain, strict=False))
    return values, nodes


def _call_node(call: Value) -> cst.Call:
    assert isinstance(call.node, cst.Call)
    return call.node


# Softmax between products ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Product:
    value: Value
    left: Value
    right: Value
    left_node: cst.BaseExpression
    right_node: cst.BaseExpression


def as_product(value: Value) -> _Product | None:
    """``a @ b``, ``torch.matmul(a, b)``, ``a.bmm(b)``, ``torch.einsum("...", a, b)``, ``torch.baddbmm(c, a, b)``."""
    if value.op is Op.BINARY and value.operator == "@" and isinstance(value.node, cst.BinaryOperation):
        return _Product(value, value.inputs[0], value.inputs[1], value.node.left, value.node.right)
    if not called(value, *_PRODUCTS) or not isinstance(value.node, cst.Call):
        return None
    inputs = list(value.inputs)
    nodes = [argument.value for argument in value.node.args if argument.keyword is None]
    if value.op is Op.METHOD and isinstance(value.node.func, cst.Attribute):
        nodes.insert(0, value.node.func.value)
    for name in ("input", "mat2", "other", "batch1", "batch2"):
        given = value.keyword(name)
        if given is not None:
            inputs.append(given)
            nodes += [arg.value for arg in value.node.args if arg.keyword is not None and arg.keyword.value == name]
    if len(inputs) < 2 or len(nodes) != len(inputs):
        return None
    return _Product(value, inputs[-2], inputs[-1], nodes[-2], nodes[-1])


def _is_softmax(value: Value) -> bool:
    """``softmax(x)``, ``nn.Softmax(dim=-1)(x)``, or a submodule of that class."""
    if value.op is Op.CALL:
        return last_name(value.inputs[0]) == "Softmax"
    if value.op is Op.SUBMODULE and value.module is not None:
        return {name.rpartition(".")[2] for name in value.module.classes} == {"Softmax"}
    return called(value, "softmax")


def _softmax(softmax: Value, kinds: Kinds, consumers: Consumers) -> list[Meeting]:
    scores = operand(softmax, 1 if softmax.op is Op.CALL else 0)
    if scores is None:
        return []
    walk = _Scores(kinds)
    walk.back(scores, scores.node)
    second = _next_product(softmax, kinds, consumers)
    if second is None:
        return []
    found = []
    for first in walk.products:
        if any(_is_weight(side) for side in (first.left, first.right, second.right)):
            continue
        key_node = _before_transposition(first.right_node)
        nodes = {"query": first.left_node, "key": key_node, "value": second.right_node}
        meeting = Meeting(
            Core.SOFTMAX,
            first.value,
            second.value,
            first.left,
            _value_before_transposition(first.right),
            second.right,
            nodes,
            None,
            tuple(walk.terms),
            tuple(walk.troubles),
        )
        found.append(meeting)
    return found[:1] if len(found) == 1 else [_ambiguous(one) for one in found[:1]]


def _ambiguous(meeting: Meeting) -> Meeting:
    """Scores that are the sum of several products (disentangled attention): no one key is the key."""
    trouble = ("the scores are made of several products", meeting.call.node)
    return replace(meeting, troubles=(*meeting.troubles, trouble))


class _Scores:
    """Walks back from a softmax to the products that its scores are made of."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._seen: set[int] = set()
        self.products: list[_Product] = []
        self.terms: list[tuple[Value, cst.BaseExpression]] = []
        self.troubles: list[tuple[str, cst.CSTNode]] = []

    def back(self, value: Value, node: cst.CSTNode) -> bool:
        """Whether a product was found behind `value`."""
        value = same_tensor(value)
        if id(value) in self._seen:
            return bool(self.products)
        self._seen.add(id(value))
        product = as_product(value)
        if product is not None and not (_is_weight(product.left) or _is_weight(product.right)):
            self.products.append(product)
            self._bias_of(product)
            return True
        if value.op is Op.JOIN:
            return self._any(value.inputs)
        if value.op is Op.BINARY:
            return self._binary(value)
        if value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in VIEWS | CASTS | DROPOUTS | _TUNING:
            return self._call(value)
        if value.op is Op.SUBMODULE and value.through is None and value.inputs:
            kind = self._kinds.of(value.module.classes) if value.module else Kind.WORK
            return kind in (Kind.DROPOUT, Kind.IDENTITY) and self.back(value.inputs[0], value.inputs[0].node)
        if value.op in (Op.ITEM, Op.OTHER) and value.inputs:
            found = self.back(value.inputs[0], value.inputs[0].node)
            if found and value.op is Op.ITEM:
                self.troubles.append(("a slice of the scores is taken", value.node))
            return found
        return False

    def _any(self, values: Sequence[Value]) -> bool:
        found = [self.back(one, one.node) for one in values if not one.is_none]  # all of them: each may hold a product
        return any(found)

    def _bias_of(self, product: _Product) -> None:
        """``bias.baddbmm(q, k)`` adds to the product; ``torch.empty`` there stands for nothing."""
        if last_name(product.value) != "baddbmm" or len(product.value.inputs) < 1:
            return
        bias = same_tensor(product.value.inputs[0])
        if not called(bias, "empty", "zeros") and bias is not same_tensor(product.left):
            self.terms.append((bias, product.value.inputs[0].node))  # type: ignore[arg-type]

    def _binary(self, value: Value) -> bool:
        node = value.node
        sides = (node.target, node.value) if isinstance(node, cst.AugAssign) else (node.left, node.right)  # type: ignore[attr-defined]
        found = [self.back(one, side) for one, side in zip(value.inputs, sides, strict=True)]
        if not any(found):
            return False
        for one, side, has in zip(value.inputs, sides, found, strict=True):
            harmless = is_number(one) if value.is_sum else is_scalar(one)
            if not has and not harmless:
                if value.is_sum:
                    self.terms.append((one, side))
                else:
                    self.troubles.append((f"the scores are combined with a tensor by `{value.operator}`", node))
        return True

    def _call(self, value: Value) -> bool:
        name = last_name(value)
        tensors = value.inputs[1:] if name == "where" and value.op is Op.FUNCTION else value.inputs[:1]
        if name == "cat" and tensors and same_tensor(tensors[0]).op is Op.TUPLE:
            tensors = same_tensor(tensors[0]).inputs
        found = self._any(tensors)
        plain = VIEWS | CASTS | DROPOUTS | {"tanh", "clamp", "clip"}
        if found and name not in plain:
            self.troubles.append((f"the scores go through `{name}`", value.node))
        return found


def _next_product(softmax: Value, kinds: Kinds, consumers: Consumers) -> _Product | None:
    """The product that the attention weights are the left side of."""
    todo, seen = [softmax], set()
    while todo:
        value = todo.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        product = as_product(value)
        if product is not None and (id(product.left) in seen or id(same_tensor(product.left)) in seen):
            return product
        if value is softmax or _keeps_weights(value, kinds):
            todo.extend(consumers.of(value))
    return None


def _keeps_weights(value: Value, kinds: Kinds) -> bool:
    if value.op is Op.SUBMODULE:
        dropout = value.module is not None and kinds.of(value.module.classes) in (Kind.DROPOUT, Kind.IDENTITY)
        return dropout or value.through is not None
    if value.op is Op.BINARY:
        return value.operator in "*+/-"
    if value.op in (Op.METHOD, Op.FUNCTION):
        return last_name(value) in VIEWS | CASTS | DROPOUTS | _TUNING | {"nan_to_num"} or value.through is not None
    return value.op in (Op.JOIN, Op.PARAMETER, Op.ITEM, Op.HELPER)


def _is_weight(value: Value) -> bool:
    """A parameter of the module, maybe seen from another side: no activation."""
    value = same_tensor(value)
    while value.op in (Op.METHOD, Op.ITEM, Op.ATTRIBUTE, Op.FUNCTION) and value.inputs:
        if value.op is Op.ATTRIBUTE and value.inputs[0].is_module:
            return True
        value = same_tensor(value.inputs[0])
    return value.op in (Op.CONSTANT, Op.GLOBAL, Op.SELF, Op.MODULE)


def _before_transposition(node: cst.BaseExpression) -> cst.BaseExpression:
    """``k`` of ``k.transpose(-1, -2)``."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _TRANSPOSES:
        return node.func.value
    if isinstance(node, cst.Attribute) and node.attr.value in ("mT", "T"):
        return node.value
    return node


def _value_before_transposition(value: Value) -> Value:
    if value.op in (Op.METHOD, Op.ATTRIBUTE) and value.name in (*_TRANSPOSES, "T") and value.inputs:
        return value.inputs[0]
    return value


def is_plain_transposition(meeting: Meeting) -> bool:
    """Whether the key goes into the first product as ``k.transpose(-1, -2)``, so that `key` is what was transposed."""
    product = as_product(meeting.call)
    if product is None:
        return False
    right = product.right
    if right.op is Op.ATTRIBUTE and right.name == "mT":
        return True
    if right.op is not Op.METHOD or right.name not in ("transpose", "swapaxes"):
        return False
    node = right.node
    assert isinstance(node, cst.Call)
    written = [argument.value for argument in node.args]
    dimensions = sorted(cst.Module([]).code_for_node(one) for one in written)
    return dimensions in (["-1", "-2"], ["2", "3"], ["-1", "2"], ["-2", "3"])


def meetings_behind(value: Value, known: dict[int, Meeting]) -> Iterator[Meeting]:
    """The cores among `value` and its origins."""
    todo, seen = [value], set()
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if id(value) in known:
            yield known[id(value)]
        todo.extend(value.origins())
