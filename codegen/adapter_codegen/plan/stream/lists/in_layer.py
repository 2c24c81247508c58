"""What the forward of a layer, and those that it calls, show of the form of its hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from adapter_codegen.model import StreamForm
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.attention.kinds.calls import packing_arguments
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.layout import flat_arguments, integer
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import GATHERING, VIEWS, called, one_step_back, sources, track
from adapter_codegen.plan.stream.additions.residuals import Addition
from adapter_codegen.plan.stream.additions.shortened import shortened
from adapter_codegen.plan.stream.lists.sign import RANK, Sign

_UNFOLDED = 4  # a tensor, the dimension, the size and the step of its windows
_BEFORE_BATCH_FIRST = 8  # parameters of nn.MultiheadAttention that may stand in front of it by position


def form_in_layer(scene: Scene, cores: Sequence[AttentionCore], additions: Sequence[Addition]) -> Sign | None:
    """What the forward of a layer, and those that it calls, show of the form of its hidden states.

    Args:
        additions: on its stream.
    """
    return next(
        (
            sign
            for sign in (
                _by_unpacking(scene),
                _by_a_fourth(scene),
                _by_batch_of_one(scene, cores),
                _by_lengths(cores),
                _by_torch(scene),
                _by_return(scene),
                _by_mixing(additions),
                _by_shortening(additions, scene),
                _by_pooling(scene),
            )
            if sign
        ),
        None,
    )


def _by_unpacking(scene: Scene) -> Sign | None:
    """``length, _ = hidden_states.shape`` counts the dimensions. Where several counts are unpacked, none is certain."""
    counts = dict(_unpacked(scene))
    if len(counts) != 1 or RANK in counts:
        return None
    ((count, node),) = counts.items()
    return Sign(StreamForm.PACKED if count < RANK else StreamForm.OTHER, node)


def _unpacked(scene: Scene) -> Iterator[tuple[int, cst.CSTNode]]:
    """The numbers of names that the shape of the stream is unpacked into."""
    for value in scene.flow.values:
        targets = _targets(value) if value.op is Op.ITEM and isinstance(value.node, cst.Element) else 0
        shape = same_tensor(value.inputs[0]) if targets else None
        if shape is not None and _is_shape(shape) and _is_stream(shape.inputs[0], scene):
            yield targets, value.statement or value.node


def _targets(item: Value) -> int:
    """How many names an assignment has on its left side; 0 where one of them takes whatever is left over."""
    body = item.statement.body if isinstance(item.statement, cst.SimpleStatementLine) else ()
    for node in body:
        for target in node.targets if isinstance(node, cst.Assign) else ():
            if isinstance(target.target, cst.Tuple):
                elements = target.target.elements
                return 0 if any(isinstance(one, cst.StarredElement) for one in elements) else len(elements)
    return 0


def _is_shape(value: Value) -> bool:
    """``x.shape`` or ``x.size()``."""
    is_size = value.op is Op.METHOD and value.name == "size" and len(value.inputs) == 1 and not value.keywords
    return is_size or (value.op is Op.ATTRIBUTE and value.name == "shape")


def _by_a_fourth(scene: Scene) -> Sign | None:
    """``hidden_states.permute(0, 2, 3, 1)``, ``hidden_states.shape[3]``: a dimension is named that rows of positions do not have.

    Where something else says that there are rows, neither is certain.
    """
    if RANK in dict(_unpacked(scene)):
        return None
    for value in scene.flow.values:
        tensor, numbers = _dimensions_named(value)
        if tensor is not None and max(numbers, default=0) >= RANK and _is_stream(tensor, scene):
            return Sign(StreamForm.OTHER, value.node)
    return None


def _dimensions_named(value: Value) -> tuple[Value | None, list[int]]:
    """The tensor of which a step exchanges or counts dimensions, and the numbers of these."""
    if called(value, "permute", "transpose", "swapaxes") and value.inputs:
        given = [integer(argument) for argument in flat_arguments(value.inputs[1:])]
        return value.inputs[0], [number for number in given if number is not None]
    shape = same_tensor(value.inputs[0]) if value.op is Op.ITEM and value.index.isdigit() else None
    if shape is None or not _is_shape(shape):
        return None, []
    return shape.inputs[0], [int(value.index)]


def _by_lengths(cores: Sequence[AttentionCore]) -> Sign | None:
    """Attention that is told where sequences begin in its row: it may have a batch of one, but none per example."""
    return next((Sign(StreamForm.PACKED, node) for core in cores for node in packing_arguments(core)), None)


def _by_batch_of_one(scene: Scene, cores: Sequence[AttentionCore]) -> Sign | None:
    """``q.transpose(0, 1).unsqueeze(0)`` between projection and core: what is attended to has one row, the stream none."""
    for core in cores:
        for value in track(core.query, scene.kinds) if core.kind.has_keys else ():
            if _is_new_batch(value) and any(
                _is_stream(linear.inputs[0], scene)
                for linear in sources(value, scene.kinds, frozenset({Kind.LINEAR}))
                if linear.inputs
            ):
                return Sign(StreamForm.PACKED, value.node)
    return None


def _is_new_batch(value: Value) -> bool:
    """``x.unsqueeze(0)`` or ``x[None]``."""
    if called(value, "unsqueeze"):
        given = value.keyword("dim") or (value.inputs[1] if len(value.inputs) > 1 else None)
        return given is not None and integer(given) == 0
    if value.op is not Op.ITEM or not isinstance(value.node, cst.Subscript):
        return False
    first = value.node.slice[0].slice
    return isinstance(first, cst.Index) and dotted_name(first.value) == "None"


def _by_torch(scene: Scene) -> Sign | None:
    """nn.MultiheadAttention reads (length, batch, width), unless it was built to read the batch first."""
    for value in scene.flow.values:
        if not scene.is_call_of(value, Kind.TORCH_ATTENTION) or not _reads_length_first(scene, value):
            continue
        query = value.keyword("query") or (value.inputs[0] if value.inputs else None)
        if query is not None and _stream_behind(query, scene):
            return Sign(StreamForm.LENGTH_FIRST, value.node)
    return None


def _by_return(scene: Scene) -> Sign | None:
    """``return (vision, text), weights``: no one tensor is what runs on, but several side by side."""
    returned = _returned(scene)
    if returned is None or returned.op is not Op.TUPLE or not returned.inputs:
        return None
    first = same_tensor(returned.inputs[0])
    return Sign(StreamForm.SEVERAL, first.node) if first.op is Op.TUPLE and len(first.inputs) > 1 else None


def _returned(scene: Scene) -> Value | None:
    return None if scene.flow.returned is None else same_tensor(scene.flow.returned)


def _by_mixing(additions: Sequence[Addition]) -> Sign | None:
    """Hyper-connections: several streams run through the layer, and a position of its hidden states holds one vector of each."""
    mixed = (addition.value for addition in additions if addition.residual_node is None)
    return next((Sign(StreamForm.SEVERAL, value.node) for value in mixed), None)


def _by_shortening(additions: Sequence[Addition], scene: Scene) -> Sign | None:
    """A layer that convolves the stream to fewer positions: which of them are real, the mask that it is given does not show."""
    convolved = (one.value for one in additions if shortened(one.residual, one.work, scene) is not None)
    return next((Sign(StreamForm.GATHERED, value.node) for value in convolved), None)


def _by_pooling(scene: Scene) -> Sign | None:
    """``hidden_states.unfold(1, 2, 2).mean(-1)`` in the stream: the layer gives fewer positions than the mask that it is given has."""
    returned = _returned(scene)
    if returned is None or _is_stream(returned, scene):
        return None  # the positions of the stream go on beside what is pooled
    pooled = (
        value
        for value in scene.flow.values
        if called(value, "unfold") and len(value.inputs) == _UNFOLDED and integer(value.inputs[1]) == 1
    )
    return next(
        (
            Sign(StreamForm.GATHERED, value.node)
            for value in pooled
            if integer(value.inputs[3]) != 1 and _is_stream(value.inputs[0], scene)
        ),
        None,
    )


def _reads_length_first(scene: Scene, call: Value) -> bool:
    """Whether the construction of the callee says nothing about ``batch_first``."""
    owner = scene.facts.classes.get(call.frame.class_name)
    submodule = owner.submodules.get(call.path.rpartition(".")[2]) if owner is not None else None
    if submodule is None or submodule.in_list:
        return False
    names = {argument.keyword.value for argument in submodule.arguments if argument.keyword is not None}
    starred = any(argument.star for argument in submodule.arguments)
    return "batch_first" not in names and not starred and len(submodule.arguments) <= _BEFORE_BATCH_FIRST


def _is_stream(value: Value, scene: Scene) -> bool:
    """Whether a value is the layer's own hidden states: the first of its arguments."""
    forward = scene.facts.classes[scene.flow.root.class_name].functions[scene.flow.root.function]
    return next(iter(forward.parameters), "") in _stream_behind(value, scene)


def _stream_behind(value: Value, scene: Scene) -> set[str]:
    """Arguments of the layer that a value is made of by norms and additions, without a change of dimensions."""
    found: set[str] = set()
    ahead, seen = [value], set()
    while ahead:
        value = ahead.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.op is Op.PARAMETER and value.frame is scene.flow.root:
            found.add(value.name)
        elif not _changes_dimensions(value):
            ahead += one_step_back(value, scene.kinds)
    return found


def _changes_dimensions(value: Value) -> bool:
    return called(value, *(VIEWS - {"contiguous"}), *GATHERING) or (value.op is Op.ITEM and value.through is None)
