"""Residuals that are convolved, where a layer shortens the stream (the adapter of Wav2Vec2-BERT).

Such a layer convolves the stream with a stride twice: for its sublayer, and for what the output of that is added to. The stream itself
has more positions and cannot be added. A convolution beside a sublayer is no sign for that: it may be a sublayer of its own. So both must be
convolved alike, from the same values of the stream, and with a stride.
"""

from __future__ import annotations

from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.modules import find_submodule
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Value, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, VIEWS, called, first_argument

_KEEPING = (Kind.NORM, Kind.DROPOUT, Kind.IDENTITY)
_SIZES = ("kernel_size", "stride", "padding", "dilation")  # what the number of positions depends on
_BEFORE_SIZES = 2  # arguments in front of them: the channels


def shortened(residual: Value, work: Value, scene: Scene) -> Value | None:
    """The stream, of which `residual` and what a sublayer reads are both a convolution that shortens it alike; None where they are not."""
    read = first_argument(work)
    beside, within = (_convolution(value, scene) if value is not None else None for value in (residual, read))
    if beside is None or within is None or beside.path == within.path:
        return None
    sizes = _sizes(beside, scene)
    if sizes.get("stride", "1") == "1" or sizes != _sizes(within, scene):
        return None
    starts = [_behind_steps(start, scene) for one in (beside, within) if (start := first_argument(one)) is not None]
    return starts[0] if len(starts) == 2 and starts[0] is starts[1] else None


def _convolution(value: Value, scene: Scene) -> Value | None:
    found = _behind_steps(value, scene, Kind.ACTIVATION)
    return found if scene.is_call_of(found, Kind.CONVOLUTION) else None


def _behind_steps(value: Value, scene: Scene, *others: Kind) -> Value:
    """What a value is a view of, normalised as it may be."""
    while True:
        value = same_tensor(value)
        if not value.inputs or not (called(value, *VIEWS, *CASTS) or scene.is_call_of(value, *_KEEPING, *others)):
            return value
        value = value.inputs[0]


def _sizes(convolution: Value, scene: Scene) -> dict[str, str]:
    """The sizes that a convolution is made with, as written."""
    _, _, name = convolution.path.rpartition(".")
    known = find_submodule(scene.facts, (convolution.frame.class_name,), name)
    arguments = known.arguments if known is not None else ()
    given = [scene.facts.code(argument.value) for argument in arguments if argument.keyword is None][_BEFORE_SIZES:]
    named = {argument.keyword.value: scene.facts.code(argument.value) for argument in arguments if argument.keyword}
    sizes = dict(zip(_SIZES, given, strict=False)) | named
    return {name: sizes[name] for name in _SIZES if name in sizes}
