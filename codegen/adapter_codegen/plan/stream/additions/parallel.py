"""Attention and feed-forward in one sum, ``a + f + r``: which term is which."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from adapter_codegen.plan.attention.attentions import Attentions
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.stream.additions.residuals import Addition
from adapter_codegen.plan.stream.additions.work import operand_nodes
from adapter_codegen.plan.stream.blocks.feed_forward import feed_forward


@dataclass(frozen=True, eq=False)
class Terms:
    """What two sublayers gave, as it stands in the sum."""

    attending: cst.BaseExpression
    other: cst.BaseExpression


def terms_of(addition: Addition, scene: Scene, attentions: Attentions) -> Terms | None:
    """The terms of a parallel sum; None where the branch is no sum of an attention and a feed-forward block.

    The inner sum must stand in the outer one: where it has a name of its own, other code may read it. A mixer beside the
    attention (``mamba + attention``) is a part of the same sublayer.
    """
    inner = addition.branch
    nodes = operand_nodes(inner) if inner.is_sum else None
    if nodes is None or inner.node is not addition.branch_node:
        return None
    attending = [attentions.is_behind(operand) for operand in inner.inputs]
    if attending.count(True) != 1:
        return None
    place = attending.index(True)
    first, _, last = feed_forward(inner.inputs[1 - place], addition.residual, scene)
    return Terms(nodes[place], nodes[1 - place]) if first and last else None
