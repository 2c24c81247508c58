"""The kinds of attention cores. Where do I add one? A file in ``kinds/`` and its line here."""

from __future__ import annotations

from adapter_codegen.plan.attention.core import AttentionCore, CoreKind, Signs
from adapter_codegen.plan.attention.kinds.deformable import Deformable
from adapter_codegen.plan.attention.kinds.flash import Flash
from adapter_codegen.plan.attention.kinds.functional import Functional
from adapter_codegen.plan.attention.kinds.interface import Interface
from adapter_codegen.plan.attention.kinds.sdpa import Sdpa
from adapter_codegen.plan.attention.kinds.softmax import Softmax
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, ancestors, same_tensor

CORE_KINDS: tuple[CoreKind, ...] = (
    Interface(),
    Sdpa(),
    Flash(),
    Softmax(),
    Deformable(),
    Functional(),
)


def find_cores(scene: Scene) -> list[AttentionCore]:
    """The attention cores of a flow, in order."""
    found = (core for value in scene.flow.values for kind in CORE_KINDS for core in kind.recognise(value, scene))
    return list({id(core.call): core for core in found if not _only_mixes(core, scene)}.values())


def _only_mixes(core: AttentionCore, scene: Scene) -> bool:
    """Whether a learned query weighs states that are keys and values themselves: no sublayer, but a way to add them up.

    (Inkling 2 enters each sublayer with such a sum of what earlier blocks gave.)
    """
    if same_tensor(core.key) is not same_tensor(core.value):
        return False
    behind = ancestors(core.query, lambda one: one.is_metadata).values()
    return not any(value.op is Op.PARAMETER and not value.frame.depth for value in behind)


def all_signs() -> Signs:
    """What any of the kinds shows in the text."""
    return Signs(
        names=frozenset().union(*(kind.signs.names for kind in CORE_KINDS)),
        calls=frozenset().union(*(kind.signs.calls for kind in CORE_KINDS)),
        modules=frozenset().union(*(kind.signs.modules for kind in CORE_KINDS)),
    )
