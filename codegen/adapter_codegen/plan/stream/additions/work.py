"""The submodule that did the work of a branch: what a residual addition adds to the stream came out of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from adapter_codegen.plan.attention.kinds.products import as_product, is_own_weight, is_weight
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import (
    CASTS,
    DROPOUTS,
    VIEWS,
    called,
    is_number,
    last_name,
    tensor_operands,
    worked_on,
)
from adapter_codegen.plan.stream.additions.pieces import joined_streams

# Modules and calls after which the stream is still the stream, and a branch the same branch.
STEPS = (Kind.NORM, Kind.DROPOUT, Kind.IDENTITY, Kind.SCALE)
_AVERAGES = frozenset({"mean", "amax"})  # over a dimension: all else that they are given says which
STREAM_CALLS = CASTS | VIEWS | DROPOUTS | {"clamp", "clip", "nan_to_num", "where", "mul", "roll", "pad", "masked_fill"}


def work_behind(branch: Value, scene: Scene) -> Value | None:
    """The submodule call, or the product with a parameter, that a branch came out of: behind dropout, scale, view, cast, norm, tuple index.

    Of a branch that is itself a sum (attention beside a feed-forward block, shared experts beside others), every term must have
    come out of one; the last is given.
    """
    value = branch
    for _ in range(40):
        if value.op is Op.SUBMODULE and scene.kind(value) not in STEPS:
            return value
        if (value.op is Op.SUBMODULE and value.inputs) or value.op is Op.ITEM:
            value = value.inputs[0]
        elif value.through is not None:
            value = value.through
        elif value.op is Op.JOIN:
            return _work_of_any(value.choices, scene)
        elif value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in STREAM_CALLS and value.inputs:
            value = worked_on(value)[0]
        elif value.op is Op.BINARY and value.operator in "*/":
            works = [work_behind(operand, scene) for operand in tensor_operands(value)]
            return next((work for work in works if work is not None), None)
        elif value.op is Op.BINARY and value.operator == "-":
            value = value.inputs[0]  # less something, it is the same work: ``mixer(x) - norm(x)``
        elif value.is_sum:
            works = [work_behind(operand, scene) for operand in value.inputs]
            return works[-1] if all(works) else None
        elif parts := joined_streams(value):
            return _work_of_pieces(parts, scene)
        else:
            return value if _is_projection(value) else None
    return None


def _is_projection(value: Value) -> bool:
    """``einsum("ibnd,hnd->ibh", attended, self.o)``: what a module does by a parameter of its own, in the place of a submodule."""
    product = as_product(value) if called(value, "einsum") and value.frame.depth else None
    return product is not None and is_own_weight(product.right) and not is_weight(product.left)


def _work_of_any(values: Sequence[Value], scene: Scene) -> Value | None:
    """The submodule behind one of several alternatives.

    One that did no work must be what the others started from, made of what they gave, or the same product in slices.
    """
    works = [work_behind(value, scene) for value in values]
    pairs = list(zip(values, works, strict=True))
    behind = {key for value, work in pairs if work is not None for key in ancestors(value)}
    done = next((work for work in works if work is not None), None)
    idle = [value for value, work in pairs if work is None]
    if done is None:
        return None
    unexplained = (value for value in idle if id(same_tensor(value)) not in behind)
    return (
        done if all(_is_in_slices(value, done) or _is_made_of(value, done, scene) for value in unexplained) else None
    )


def _work_of_pieces(parts: Sequence[Value], scene: Scene) -> Value | None:
    """The submodule whose output was cut and put together again; None where anything else is among the parts."""
    works = [work_behind(part, scene) for part in parts]
    done = next((work for work in works if work is not None), None)
    of_one = done is not None and all(
        work is done or (work is None and _is_made_of(part, done, scene))
        for part, work in zip(parts, works, strict=True)
    )
    return done if of_one else None


def _is_made_of(value: Value, work: Value, scene: Scene) -> bool:
    """Whether a value is put together from what `work` gave, and of no other activation: split, averaged, joined again."""
    todo, seen = [value], set[int]()
    while todo:
        value = todo.pop()
        if id(value) in seen or value is work or value.is_metadata or is_number(value):
            continue
        seen.add(id(value))
        is_view = called(value, *VIEWS, *_AVERAGES) and value.through is None
        if value.inputs and (value.op is Op.ITEM or is_view or scene.is_call_of(value, *STEPS)):
            todo.append(value.inputs[0])
        elif (
            value.op in (Op.METHOD, Op.FUNCTION, Op.TUPLE, Op.STARRED, Op.JOIN)
            and value.through is None
            and value.inputs
        ):
            todo += value.inputs
        else:
            return False
    return bool(seen)


def _is_in_slices(value: Value, work: Value) -> bool:
    """``total + F.linear(x[..., i:j], self.dense.weight[:, i:j])`` in a loop, from zeros; `work` is the call of ``self.dense``."""
    products = [term for term in _terms(value) if not called(term, "zeros_like", "zeros")]
    are_all = all(called(one, "linear") and len(one.inputs) > 1 and _weight_of(one) == work.path for one in products)
    return bool(products) and are_all


def _terms(value: Value) -> Iterator[Value]:
    """What a sum is made of, whichever of its alternatives is computed."""
    todo, seen = [value], set[int]()
    while todo:
        value = same_tensor(todo.pop())
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.is_sum or value.op is Op.JOIN:
            todo += value.inputs
        else:
            yield value


def _weight_of(product: Value) -> str:
    """The path of the module whose weight a product is with; "" where it is another tensor."""
    weight = product.inputs[1]
    while weight.op is Op.ITEM:
        weight = weight.inputs[0]
    is_weight = weight.op is Op.ATTRIBUTE and weight.name == "weight" and weight.inputs[0].is_module
    return weight.inputs[0].path if is_weight else ""


def operand_nodes(value: Value) -> tuple[cst.BaseExpression, cst.BaseExpression] | None:
    node = value.node
    if isinstance(node, cst.AugAssign):
        return node.target, node.value
    return (node.left, node.right) if isinstance(node, cst.BinaryOperation) else None
