"""Gates: a module that weighs the stream and what a sublayer gave, and adds both (the decoder of D-FINE).

The weights are sigmoids of one projection of both arguments, joined over their features: ``w1 * stream + w2 * branch``, with a norm
around it or none. So each position goes by itself, and what is added is the branch, as in any residual addition. Which of
the two arguments is the stream, their order does not say: that is for the data flow at the call.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.layout import integer
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Frame, Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import JOINING, called, operand
from adapter_codegen.plan.stream.additions.lifted import Lifted, pair_at

_LAST = -1


def gated(call: Value, scene: Scene) -> Iterator[Lifted]:
    """The two arguments of the call of a gate, either of them as the branch; nothing where the call is of none."""
    frames = [frame for frame, found in scene.flow.calls.items() if found is call]
    if call.op is not Op.SUBMODULE or len(frames) != 1 or call.through is None:
        return
    (frame,) = frames
    total = _within_norm(call.through, frame, scene)
    arguments = [_argument_in(term, frame, scene) for term in total.inputs] if total.is_sum else []
    names = {argument.name for argument in arguments if argument is not None}
    # A third argument would be something that the rule does not know.
    if len(names) != 2 or names != set(scene.facts.classes[frame.class_name].functions[frame.function].parameters):
        return
    for branch, residual in (arguments, arguments[::-1]):
        if branch is not None and residual is not None:
            yield from pair_at(call, frame, residual, branch, scene)


def _within_norm(value: Value, frame: Frame, scene: Scene) -> Value:
    """What a module gives, in front of the norm that it ends with, if it ends with one."""
    is_norm = scene.is_call_of(value, Kind.NORM) and value.frame is frame and len(value.inputs) == 1
    return value.inputs[0] if is_norm else value


def _argument_in(term: Value, frame: Frame, scene: Scene) -> Value | None:
    """The argument that a term is the product of, with a gate; None where it is another tensor."""
    if term.op is not Op.BINARY or term.operator != "*" or term.frame is not frame:
        return None
    for argument, gate in (term.inputs, term.inputs[::-1]):
        if _is_argument(argument, frame) and _is_gate(gate, frame, scene):
            return argument
    return None


def _is_argument(value: Value, frame: Frame) -> bool:
    return value.op is Op.PARAMETER and value.frame is frame and value.through is not None and len(value.inputs) == 1


def _is_gate(value: Value, frame: Frame, scene: Scene) -> bool:
    """A sigmoid of a projection of both arguments, or one of the parts that it is cut into over its features."""
    cut = value.inputs[0] if value.op is Op.ITEM and value.index.isdigit() else None
    if cut is not None:
        is_cut = called(cut, "chunk", "split") and cut.through is None
        value = cut.inputs[0] if is_cut and _axis(cut, 2) == _LAST else cut
    if not _is_sigmoid(value, scene) or not value.inputs:
        return False
    projected = value.inputs[0]
    if not scene.is_call_of(projected, Kind.LINEAR) or not projected.inputs:
        return False
    joined = projected.inputs[0]
    parts = operand(joined, 0, "tensors") if called(joined, *JOINING) and _axis(joined, 1) == _LAST else None
    both = same_tensor(parts).inputs if parts is not None and same_tensor(parts).op is Op.TUPLE else ()
    return len(both) == 2 and both[0] is not both[1] and all(_is_argument(part, frame) for part in both)


def _is_sigmoid(value: Value, scene: Scene) -> bool:
    known = value.module.classes if scene.is_call_of(value, Kind.ACTIVATION) and value.module is not None else ()
    return called(value, "sigmoid") or (bool(known) and {local_class(name) for name in known} == {"Sigmoid"})


def _axis(value: Value, index: int) -> int | None:
    """The dimension that a call names; None where it names none, or by no number."""
    given = operand(value, index, "dim")
    return None if given is None else integer(given)
