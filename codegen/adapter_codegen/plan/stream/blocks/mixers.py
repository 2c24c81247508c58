"""The projections of a sublayer that mixes positions without attention: of a state space, a recurrence, a convolution.

The first ones read the stream, and the last one gives what is added to it. Projections between these make what the recurrence is
driven by (time steps, decays); they are none of both.

A kernel may take the weight of a projection and compute with that, so that the module never runs: Mamba's takes that of the last
projection while it trains without a cache. An update beside such a module would come and go with the path that is taken. So a
projection whose parameters are read anywhere in the layer has no role, unless only their type or place is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adapter_codegen.model import MixerRoles
from adapter_codegen.plan.attention.attentions import Attentions
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors
from adapter_codegen.plan.flow.walks import sources
from adapter_codegen.plan.stream.additions.residuals import Addition
from adapter_codegen.plan.stream.roles import Roles

_PARAMETERS = frozenset({"weight", "bias"})


def mixer_roles(additions: Iterable[Addition], roles: Roles, attentions: Attentions, scene: Scene) -> MixerRoles:
    """The projections of all mixers of a layer."""
    first: dict[str, None] = {}
    last: dict[str, None] = {}
    for addition in additions:
        if not roles.may_mix(addition):
            continue
        behind = ancestors(addition.residual)
        for linear in sources(addition.branch, scene.kinds, frozenset({Kind.LINEAR})):
            inside = {key: value for key, value in ancestors(linear).items() if key not in behind}
            if id(linear) in behind or attentions.kinds_in(inside) or not roles.mixes(inside):
                continue
            found = (one for one in _reading(linear, inside, scene) if not _stands_in_several(one.path, scene))
            first.update((one.path, None) for one in found)
            if not _stands_in_several(linear.path, scene):
                last[linear.path] = None
    taken = _taken(scene)
    return MixerRoles(
        tuple(path for path in first if path not in taken and path not in last and "*" not in path),
        tuple(path for path in last if path not in taken and "*" not in path),
    )


def _reading(last: Value, inside: dict[int, Value], scene: Scene) -> Iterator[Value]:
    """The projections in a mixer that read the stream, and nothing that another one gave, in the order in which they run."""
    for one in sorted(inside.values(), key=lambda value: scene.order.get(id(value), -1)):
        if one is last or not scene.is_call_of(one, Kind.LINEAR):
            continue
        before = (value for key, value in ancestors(one).items() if key in inside and value is not one)
        if not any(scene.is_call_of(value, Kind.LINEAR, Kind.CONVOLUTION) for value in before):
            yield one


def _stands_in_several(path: str, scene: Scene) -> bool:
    """Whether several of the classes that the module around it may have hold a module of this name: in some layers it is another's.

    Kimi Linear's ``self_attn.q_proj`` is that of a linear attention in some layers, and that of an attention in others.
    """
    known = scene.facts.classes.get(scene.flow.root.class_name)
    head, _, rest = path.partition(".")
    around = known.submodules.get(head) if known is not None and rest else None
    name, _, _ = rest.partition(".")
    classes = (scene.facts.classes.get(one) for one in dict.fromkeys(around.classes)) if around is not None else ()
    return sum(one is not None and name in one.submodules for one in classes) > 1


def _taken(scene: Scene) -> set[str]:
    """The modules whose parameters are read: not called, and not only asked for their type."""
    return {
        value.inputs[0].path
        for value in scene.flow.values
        if value.op is Op.ATTRIBUTE
        and value.name in _PARAMETERS
        and value.inputs[0].op is Op.MODULE
        and scene.consumers.of(value)
    }
