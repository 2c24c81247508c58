"""What a sublayer is in each of the classes that its module may have.

In most layers a module has one class, or several that do the same. In some hybrids a config chooses whether the only sublayer of a
layer attends, mixes positions in another way, or is a feed-forward block: ``self.mixer = MIXERS[kind](config)``. Then one addition
has a role per class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Frame, Op, Value, ancestors
from adapter_codegen.plan.flow.walks import called
from adapter_codegen.plan.stream.additions.residuals import Addition


@dataclass(frozen=True, eq=False)
class Variant:
    """A sublayer whose module is of one of its classes."""

    class_name: str
    results: tuple[Value, ...]  # what its forward gives, at each of its calls
    inside: Mapping[int, Value]  # what is computed in it
    reads_one: bool  # its forward takes the stream alone: no mask, no cache, no positions

    @property
    def multiplies_activations(self) -> bool:
        """Whether two tensors meet in a matrix product of which none is a weight, as queries and keys do."""
        return any(map(is_product_of_activations, self.inside.values()))


def variants_of(addition: Addition, scene: Scene) -> tuple[Variant, ...]:
    """The sublayer of an addition per class of its module; () where there is one class alone, or one is of another file."""
    module = addition.work.module
    names = tuple(dict.fromkeys(map(local_class, module.classes))) if module is not None else ()
    path = addition.work.path
    entered = [frame for frame, call in scene.flow.calls.items() if call.op is Op.SUBMODULE and frame.path == path]
    if len(names) < 2 or {frame.class_name for frame in entered} != set(names):
        return ()
    return tuple(_variant(name, [frame for frame in entered if frame.class_name == name], scene) for name in names)


def _variant(name: str, frames: list[Frame], scene: Scene) -> Variant:
    results = tuple(value for frame in frames for value in _returned(frame, scene))
    found = {key: value for result in results for key, value in ancestors(result).items()}
    inside = {key: value for key, value in found.items() if _is_within(value.frame, frames[0], scene)}
    parameters = [
        name for name in scene.facts.classes[name].functions["forward"].parameters if not name.startswith("*")
    ]
    return Variant(name, results, inside, len(parameters) == 1)


def is_product_of_activations(value: Value) -> bool:
    """A matrix product of two tensors of which none is a weight."""
    is_product = (value.op is Op.BINARY and value.operator == "@") or called(value, "matmul", "bmm", "baddbmm")
    return is_product and len(value.inputs) > 1 and not any(map(_is_weight, value.inputs))


def _is_weight(value: Value) -> bool:
    """``self.weight``, or one of several experts' in it, or a view of it."""
    while value.inputs and (value.op is Op.ITEM or value.op is Op.METHOD or value.through is not None):
        value = value.through if value.through is not None else value.inputs[0]
    return value.op is Op.ATTRIBUTE and value.inputs[0].op in (Op.SELF, Op.MODULE)


def _returned(frame: Frame, scene: Scene) -> Iterator[Value]:
    """What a forward may give to its call, which joins it with what forwards of other classes give."""
    through = scene.flow.calls[frame].through
    choices = () if through is None else through.inputs if through.op is Op.JOIN else (through,)
    for choice in choices:
        if _is_within(choice.frame, frame, scene):
            yield choice.inputs[0] if choice.op is Op.TUPLE and choice.inputs else choice


def _is_within(frame: Frame, outer: Frame, scene: Scene) -> bool:
    """Whether a function runs in a module, of that class, at that path; in what a class calls of the one above it too."""
    while (frame.class_name, frame.path) != (outer.class_name, outer.path):
        call = scene.flow.calls.get(frame)
        if call is None:
            return False
        frame = call.frame
    return True
