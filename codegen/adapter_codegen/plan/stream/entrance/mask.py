"""Whether a forward makes a mask of tokens where the call gives none.

It makes one as long as the tokens, before they are embedded, so a prompt that comes in behind them must be known to it: the run time then
gives the mask. Elsewhere it must not, since no mask may mean something else than one of ones: VideoPrism reads texts in both directions
without a mask, and from left to right with one.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from adapter_codegen.parse.facts import FunctionFacts
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name, is_none

_MASK = "attention_mask"
_MAKING = frozenset({"ones", "ones_like", "new_ones", "full", "full_like", "new_full"})


def makes_mask(forward: FunctionFacts) -> bool:
    """Whether `forward` makes what stands for ``attention_mask`` where that is None: another value of its name, or a tensor of ones."""
    return _MASK in forward.parameters and any(
        _gives_mask(node) for branch in _without_mask(forward.node) for node in descendants(branch)
    )


def _without_mask(function: cst.FunctionDef) -> Iterator[cst.CSTNode]:
    """What runs only where no mask is given."""
    for node in descendants(function.body):
        if isinstance(node, cst.If):
            operator = _asked(node.test)
            if operator is cst.Is:
                yield node.body
            elif operator is cst.IsNot and node.orelse is not None:
                yield node.orelse
        elif isinstance(node, cst.IfExp):
            operator = _asked(node.test)
            if operator is not None:
                yield node.body if operator is cst.Is else node.orelse


def _asked(test: cst.BaseExpression) -> type[cst.BaseCompOp] | None:
    """How a condition, or one that must hold beside others, compares the mask with None."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return _one_asked(test.left) or _one_asked(test.right)
    return _one_asked(test)


def _one_asked(test: cst.BaseExpression) -> type[cst.BaseCompOp] | None:
    if not isinstance(test, cst.Comparison) or dotted_name(test.left) != _MASK or len(test.comparisons) != 1:
        return None
    (comparison,) = test.comparisons
    is_about_none = isinstance(comparison.operator, (cst.Is, cst.IsNot)) and is_none(comparison.comparator)
    return type(comparison.operator) if is_about_none else None


def _gives_mask(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.Call):
        return dotted_name(node.func).rpartition(".")[2] in _MAKING
    assigned = assignment(node)
    return assigned is not None and not is_none(assigned[1]) and _MASK in map(dotted_name, assigned[0])
