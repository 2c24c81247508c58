"""The tests of ``if`` statements that a statement stands under, and whether two statements can both run in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import libcst as cst

from adapter_codegen.parse.syntax import assignment, descendants, dotted_name

Test = tuple[cst.BaseExpression, bool]  # and its outcome

_MOST = 10  # attributes that conditions may read; each doubles the cases


def tests_around(statement: cst.CSTNode, node: cst.CSTNode) -> tuple[Test, ...] | None:
    """The tests of the ``if`` statements between `node` and a statement in it, each with its outcome; None: it is not in it."""
    if node is statement:
        return ()
    for part, outcome in _parts(node):
        inner = tests_around(statement, part)
        if inner is not None:
            return (*outcome, *inner)
    return None


def are_exclusive(first: cst.CSTNode, second: cst.CSTNode, body: cst.CSTNode) -> bool:
    """Whether no call of a function runs both of two statements in its body, as far as the text shows.

    Only attributes of ``self`` that the body does not assign are known to be the same in both tests. Any other test may
    come out as it likes.
    """
    tests = (*(tests_around(first, body) or ()), *(tests_around(second, body) or ()))
    assigned = _assigned(body)
    read = {name for test, _ in tests for name in _attributes(test)}
    names = sorted(name for name in read if not any(f"{name}.".startswith(f"{target}.") for target in assigned))
    if len(names) > _MOST:
        return False
    cases = (dict(zip(names, values, strict=True)) for values in product((False, True), repeat=len(names)))
    return all(any(_truth(test, case) is (not outcome) for test, outcome in tests) for case in cases)


def _parts(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, Sequence[Test]]]:
    if isinstance(node, cst.If):
        yield node.body, [(node.test, True)]
        if node.orelse is not None:
            yield node.orelse, [(node.test, False)]
    else:
        yield from ((part, ()) for part in node.children)


def _truth(test: cst.BaseExpression, case: Mapping[str, bool]) -> bool | None:
    """The outcome of a test in a case; None where the case does not decide it."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        inner = _truth(test.expression, case)
        return None if inner is None else not inner
    if isinstance(test, cst.BooleanOperation):
        outcomes = {_truth(test.left, case), _truth(test.right, case)}
        decides = isinstance(test.operator, cst.Or)
        return decides if decides in outcomes else None if None in outcomes else not decides
    return case.get(dotted_name(test))


def _attributes(test: cst.BaseExpression) -> set[str]:
    """``self.config.parallel`` and the like, wherever they stand in a test."""
    return {name for node in descendants(test) if (name := dotted_name(node)).startswith("self.")}


def _assigned(body: cst.CSTNode) -> set[str]:
    """What the body gives a value: ``self.config.parallel``, or ``self.config``."""
    found: set[str] = set()
    for node in descendants(body):
        augmented = (node.target,) if isinstance(node, cst.AugAssign) else ()
        found |= {dotted_name(target) for target in (assignment(node) or (augmented, None))[0]}
    return found
