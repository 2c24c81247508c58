"""A softmax between two products of activations: attention that is written out in the forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.plan.attention.core import PREFIX, AttentionCore, Claims, CoreKind, Reason, Signs, Term, Trouble
from adapter_codegen.plan.attention.kinds.products import (
    Product,
    as_product,
    before_scaling,
    before_transposition,
    is_plain_transposition,
    is_weight,
    value_before_transposition,
)
from adapter_codegen.plan.attention.kinds.scores import Scores, hidden_by, keeps_weights
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import called, last_name, operand, sources

_RECAST = ("to", "type_as")


class Softmax(CoreKind):
    name = "softmax"
    knows_scores = True
    signs = Signs(calls=frozenset({"softmax", "Softmax"}), modules=frozenset({"Softmax"}))

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        if not _is_softmax(value):
            return
        scores = operand(value, 1 if value.op is Op.CALL else 0)
        if scores is None:
            return
        behind = Scores(scores, scene)
        second, hiding = _next_product(value, scene)
        if second is None or is_weight(second.right):
            return
        firsts = behind.products
        content = _of_contents(firsts, second, scene)
        if content is not None and len(firsts) > 1:
            behind = Scores(scores, scene, content)
            others = [product for product in firsts if product is not content]
            core = self._core(value, content, second, behind)
            yield replace(core, terms=(*core.terms, *hiding), further_keys=_keys(others))
        elif firsts:
            core = self._core(value, firsts[0], second, behind)
            core = replace(core, terms=(*core.terms, *hiding))
            yield core if len(firsts) == 1 else _ambiguous(core, firsts[1:])

    def _core(self, softmax: Value, first: Product, second: Product, behind: Scores) -> AttentionCore:
        right_node, right = before_scaling(first.right_node, first.right)
        key_node = before_transposition(right_node)
        core = AttentionCore(
            kind=self,
            call=first.value,
            result=second.value,
            query=first.left,
            key=value_before_transposition(right),
            value=second.right,
            nodes={
                "query": first.left_node,
                "key": key_node,
                "value": second.right_node,
                **(_given(softmax) if softmax.frame is first.value.frame else {}),
            },
            terms=tuple(behind.terms),
            troubles=tuple(behind.troubles),
        )
        elsewhere = [Trouble(Reason.ELSEWHERE, first.value.node)] if core.has_scores_elsewhere else []
        return replace(core, troubles=(*core.troubles, *elsewhere))

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        """What is added to the scores grows under the name that it is bound to before the core: a mask, then biases."""
        names = [None if term.hides else _name_before(core, term.value, term.node, scene) for term in core.terms]
        distinct = {name.value: name for name in names if name is not None}.values()
        grown = [scene.expression(name) for name in distinct]
        late = [term for term, name in zip(core.terms, names, strict=True) if name is None]
        biases = grown if any(term.hides for term in core.terms) else grown[1:]  # what hides is the mask, then
        return Claims(
            against=tuple(self._against(core, late, scene)),
            mask=grown[0] if len(grown) > len(biases) else None,
            biases=tuple(biases),
            late=tuple(scene.expression(term.node) for term in late),
        )

    def _against(self, core: AttentionCore, late: Sequence[Term], scene: Scene) -> Iterator[Finding]:
        for trouble in core.troubles:
            yield Finding(Problem.SCORES_NOT_ADDITIVE, trouble.node, PREFIX, {"what": str(trouble)})
        is_lifted = core.call is core.result  # the call of the function that holds the products
        product = as_product(core.call)
        if not is_lifted and (product is None or not _is_turned_there(product)):
            yield Finding(Problem.KEY_NOT_TRANSPOSED, core.call.node, PREFIX)
        for term in late:
            if term.frame is not core.call.frame:
                yield Finding(Problem.TERM_NOT_KNOWN_BEFORE, term.node, PREFIX, {"code": scene.facts.code(term.node)})


def _is_turned_there(product: Product) -> bool:
    """``q @ k.transpose(-1, -2)``: what stands there for the key is the key, and not what was turned before (Bloom)."""
    node, right = before_scaling(product.right_node, product.right)
    return is_plain_transposition(right) and before_transposition(node) is not node


def _is_softmax(value: Value) -> bool:
    """``softmax(x)``, ``nn.Softmax(dim=-1)(x)``, or a submodule of that class."""
    if value.op is Op.CALL:
        return last_name(value.inputs[0]) == "Softmax"
    if value.op is Op.SUBMODULE and value.module is not None:
        return {name.rpartition(".")[2] for name in value.module.classes} == {"Softmax"}
    return called(value, "softmax")


def _next_product(softmax: Value, scene: Scene) -> tuple[Product | None, list[Term]]:
    """The product that the attention weights are the left side of, and what hides keys from it on the way (CPM-Ant)."""
    todo, seen = [softmax], set()
    hiding: list[Term] = []
    while todo:
        value = todo.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        product = as_product(value)
        if product is not None and (id(product.left) in seen or id(same_tensor(product.left)) in seen):
            return product, hiding
        if value is not softmax and (mask := hidden_by(value)) is not None:
            hiding.append(mask)
        if value is softmax or keeps_weights(value, scene):
            todo.extend(_users(value, scene))
    return None, hiding


def _users(value: Value, scene: Scene) -> Iterator[Value]:
    """What is made of a value; of the list of operands in ``torch.einsum("...", [a, b])`` its product."""
    for user in scene.consumers.of(value):
        if user.op is Op.TUPLE:
            yield from (product for product in scene.consumers.of(user) if called(product, "einsum"))
        else:
            yield user


def _ambiguous(core: AttentionCore, others: Sequence[Product]) -> AttentionCore:
    trouble = Trouble(Reason.SEVERAL_PRODUCTS, core.call.node)
    return replace(core, troubles=(*core.troubles, trouble), further_keys=_keys(others))


def _keys(products: Sequence[Product]) -> tuple[Value, ...]:
    return tuple(value_before_transposition(product.right) for product in products)


def _of_contents(firsts: Sequence[Product], second: Product, scene: Scene) -> Product | None:
    """The one product whose keys are of the same hidden states as the values.

    What is added to it scores the positions of its own queries or keys (DeBERTa). Scores of others may be lengthened in their turn (LiLT).
    """
    read = _read(second.right, scene)
    found = [product for product in firsts if read and _read(product.right, scene) == read]
    if len(found) != 1:
        return None
    own = {id(same_tensor(value)) for value in _factors(found[0])}
    others = [product for product in firsts if product is not found[0]]
    return found[0] if all(own & {id(same_tensor(one)) for one in _factors(other)} for other in others) else None


def _factors(product: Product) -> tuple[Value, Value]:
    """What is multiplied, as it is before it is scaled and turned."""
    right = before_scaling(product.right_node, product.right)[1]
    return product.left, value_before_transposition(right)


def _read(projected: Value, scene: Scene) -> set[int]:
    """What the projections read that a tensor comes from."""
    linears = sources(projected, scene.kinds, frozenset({Kind.LINEAR}))
    return {id(same_tensor(linear.inputs[0])) for linear in linears if linear.inputs}


def _given(softmax: Value) -> dict[str, cst.BaseExpression]:
    """The scores, as they stand in the call of the softmax."""
    node = softmax.node
    if not isinstance(node, cst.Call):
        return {}
    if softmax.op is Op.METHOD and isinstance(node.func, cst.Attribute):
        return {"scores": node.func.value}
    return {"scores": node.args[0].value} if node.args and not node.args[0].star else {}


def _name_before(core: AttentionCore, value: Value, node: cst.CSTNode, scene: Scene) -> cst.Name | None:
    """The name under which a term of the scores is bound before the core, if it is the same tensor there."""
    while isinstance(node, cst.Subscript):  # ``mask[..., : key.shape[-2]]`` is cut after it has grown
        node = node.value
        value = same_tensor(value).inputs[0] if same_tensor(value).op is Op.ITEM else value
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and node.func.attr.value in _RECAST:
        node = node.func.value
        value = value.inputs[0] if value.op is Op.METHOD else value
    environment = scene.environment(core.call)
    if not isinstance(node, cst.Name) or node.value not in environment:
        return None
    return node if same_tensor(environment[node.value]) is same_tensor(value) else None
