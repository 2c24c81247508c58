"""Additions that upstream makes in a function or module of its own, which does nothing else: they are lifted to its call.

``dropout_add(x, residual, p, training)`` drops, scales and adds; ``self.residual_scale(x, residual)`` does so with parameters.
What is added there stays upstream's. The adapters stand in front: at the argument that came out of the sublayer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Frame, Op, Value, alternatives
from adapter_codegen.plan.flow.walks import is_scalar, last_name, track
from adapter_codegen.plan.stream.additions.work import STREAM_CALLS

_ARITHMETIC = "+-*/"


@dataclass(frozen=True, eq=False)
class Lifted:
    """Two arguments of a call, of which one may be the earlier value of the stream that the other is added to."""

    branch: Value
    residual: Value
    branch_node: cst.BaseExpression
    residual_node: cst.BaseExpression


def lifted(call: Value, scene: Scene) -> Iterator[Lifted]:
    """The pairs of arguments that a call does nothing with but add one to the other, scaled or dropped as it may be.

    A further argument may be added to the branch, if it is a bias: no sublayer gave it.
    """
    frames = [frame for frame, found in scene.flow.calls.items() if found is call]
    if len(frames) != 1 or call.through is None:
        return
    (frame,) = frames
    given = [(value, _given(value, frame)) for value in alternatives(call.through)]
    sums = [value for value, _ in given if value.is_sum and value.frame is frame]
    if len(sums) != 1 or any(names is None for _, names in given):
        return
    for residual, branch in (sums[0].inputs, sums[0].inputs[::-1]):
        stream, work = _given(residual, frame) or {}, _given(branch, frame) or {}
        # Without a residual, such a function may give the branch alone.
        alone = all(names == work for value, names in given if value is not sums[0])
        if len(stream) == 1 and stream.keys().isdisjoint(work) and alone:
            yield from _pairs(call, frame, next(iter(stream.values())), work, scene)


def _pairs(call: Value, frame: Frame, residual: Value, work: Mapping[str, Value], scene: Scene) -> Iterator[Lifted]:
    for branch in work.values():
        if all(_is_bias(other, scene) for other in work.values() if other is not branch):
            yield from pair_at(call, frame, residual, branch, scene)


def pair_at(call: Value, frame: Frame, residual: Value, branch: Value, scene: Scene) -> Iterator[Lifted]:
    """Two parameters of the function that a call runs, as the arguments of the call; nothing where it does not name both."""
    names = _names(frame, scene)
    node, residual_node = (_argument(call.node, one.name, names) for one in (branch, residual))
    # The residual is read once more in front of the call.
    if node is not None and isinstance(residual_node, cst.Name):
        assert branch.through is not None and residual.through is not None
        yield Lifted(branch.through, residual.through, node, residual_node)


def _given(value: Value, frame: Frame) -> dict[str, Value] | None:
    """The arguments of the frame's function that a value was computed from, element by element, by name.

    None where something else was done to them. Numbers and parameters of the module are none of them.
    """
    found: dict[str, Value] = {}
    todo, seen = [value], set[int]()
    while todo:
        value = todo.pop()
        if id(value) in seen or is_scalar(value) or value.is_none or value.is_metadata:
            continue
        seen.add(id(value))
        if value.op is Op.PARAMETER and value.frame is frame and value.through is not None:
            found[value.name] = value
        elif value.op is Op.JOIN:
            todo += value.choices
        elif _is_elementwise(value):
            todo += value.inputs
        else:
            return None
    return found


def _is_elementwise(value: Value) -> bool:
    if value.op is Op.BINARY:
        return value.operator in _ARITHMETIC
    return value.op in (Op.METHOD, Op.FUNCTION) and value.through is None and last_name(value) in STREAM_CALLS


def _is_bias(argument: Value, scene: Scene) -> bool:
    """Whether no sublayer gave an argument: it is a parameter of a module, whatever its shape was made."""
    behind = list(track(argument, scene.kinds))
    ends = (Op.SUBMODULE, Op.INTERFACE, Op.BINARY, Op.FUNCTION)
    is_given = any(value.op is Op.PARAMETER and value.through is None for value in behind)
    return not is_given and not any(value.op in ends for value in behind)


def _names(frame: Frame, scene: Scene) -> list[str]:
    """The parameters that a function takes by position."""
    owner = scene.facts.classes.get(frame.owner)
    function = owner.functions[frame.function].node if owner is not None else scene.facts.functions[frame.function]
    names = [parameter.name.value for parameter in (*function.params.posonly_params, *function.params.params)]
    return names[1:] if owner is not None else names


def _argument(call: cst.CSTNode, name: str, names: list[str]) -> cst.BaseExpression | None:
    """The expression that a call gives for a parameter; None where stars hide it."""
    if not isinstance(call, cst.Call) or any(argument.star == "*" for argument in call.args):
        return None
    for index, argument in enumerate(call.args):
        given = argument.keyword.value if argument.keyword is not None else names[index] if index < len(names) else ""
        if given == name and not argument.star:
            return argument.value
    return None
