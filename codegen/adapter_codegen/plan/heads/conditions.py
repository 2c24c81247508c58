"""Conditions of branches in which a head computes its logits in another way."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.syntax import dotted_name, is_none
from adapter_codegen.plan.flow.values import Value


def condition(join: Value) -> cst.BaseExpression | None:
    """The condition that decides between two branches."""
    return join.node.test if isinstance(join.node, (cst.If, cst.IfExp)) else None


def is_given(test: cst.BaseExpression) -> bool:
    """``x is not None``"""
    return (
        isinstance(test, cst.Comparison)
        and len(test.comparisons) == 1
        and isinstance(test.comparisons[0].operator, cst.IsNot)
        and is_none(test.comparisons[0].comparator)
    )


def needs_labels(test: cst.BaseExpression) -> bool:
    """``labels is not None``, alone or as one of several conditions that must hold."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return needs_labels(test.left) or needs_labels(test.right)
    return isinstance(test, cst.Comparison) and dotted_name(test.left) == "labels" and is_given(test)
