"""Deformable attention: values are sampled at places that a query names, with ``grid_sample``. There are no keys."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from adapter_codegen.plan.attention.core import AttentionCore, Claims, CoreKind, Signs
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Value, ancestors
from adapter_codegen.plan.flow.walks import called, operand


class Deformable(CoreKind):
    name = "deformable attention"
    signs = Signs()  # its weights come out of a softmax, by which its class is found
    has_keys = False

    def recognise(self, value: Value, scene: Scene) -> Iterator[AttentionCore]:
        """The call of the function that samples, at places that a linear module gave; at fixed places it is a resizing."""
        if not called(value, "grid_sample") or not isinstance(value.node, cst.Call):
            return
        sampled, places = operand(value, 0), operand(value, 1, "grid")
        if sampled is None or places is None or not _is_projected(places, scene):
            return
        call = scene.flow.calls.get(value.frame, value)
        yield AttentionCore(self, call, call, places, sampled, sampled, nodes={})

    def claims(self, core: AttentionCore, scene: Scene) -> Claims:
        return Claims()


def _is_projected(places: Value, scene: Scene) -> bool:
    return any(scene.is_call_of(value, Kind.LINEAR) for value in ancestors(places).values())
