"""Conditions of branches in which a head computes its logits in another way."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts
from adapter_codegen.parse.syntax import assignment, dotted_name, is_none, self_attribute, statements
from adapter_codegen.plan.flow.values import Value
from adapter_codegen.plan.heads.logits.factors import config_field


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


def missing(test: cst.BaseExpression) -> str:
    """``encoder_outputs`` of ``encoder_outputs is None``; "" of any other condition."""
    if not isinstance(test, cst.Comparison) or len(test.comparisons) != 1:
        return ""
    is_asked = isinstance(test.comparisons[0].operator, cst.Is) and is_none(test.comparisons[0].comparator)
    return dotted_name(test.left) if is_asked else ""


def made_by(known: ClassFacts, attribute: str) -> str:
    """The field of the config for which ``__init__`` makes a module, and leaves it out otherwise; "" where there is none.

    ``self.norm = nn.LayerNorm(config.hidden_size) if config.use_mean_pooling else None``
    """
    init = known.functions.get("__init__")
    pairs = (assignment(node) for node in (statements(init.node.body) if init is not None else ()))
    values = [pair[1] for pair in pairs if pair and attribute in map(self_attribute, pair[0])]
    if len(values) != 1 or not isinstance(values[0], cst.IfExp) or not is_none(values[0].orelse):
        return ""
    return config_field(dotted_name(values[0].test))
