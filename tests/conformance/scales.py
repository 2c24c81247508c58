"""Factors that a config states and that are one by default: whatever leaves them out, or applies them twice, is not seen then.

Found in the text of upstream's class: ``* self.embedding_multiplier``, where the field is 1.0 in the tiny instance, and
``math.sqrt(width) if config.scale_embedding else 1.0``.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conformance.subjects import Subject, model_class, upstream_runs

ANOTHER = 1.5


def subjects_of_other_scales(subject: Subject) -> tuple[Subject, ...]:
    """`subject` with all neutral factors changed; none where there are none, or where upstream itself does not run with others."""
    changed = {name for name, _ in subject.changes}
    turned = tuple(change for change in _other_scales(subject) if change[0] not in changed)
    if not turned:
        return ()
    other = subject.changed(*turned)
    return (other,) if upstream_runs(other) else ()


def _other_scales(subject: Subject) -> list[tuple[str, Any]]:
    config, (factors, switches) = subject.config(), scales_in(_text(model_class(subject.architecture)))
    written = config.to_dict()  # what may differ from layer to layer cannot be asked of the config itself
    values = {name: written.get(name) for name in (*factors, *switches)}
    other = {name: ANOTHER for name in factors if isinstance(values[name], float) and values[name] == 1.0}
    for name, to_be_neutral in switches.items():
        if values[name] is to_be_neutral:
            other[name] = not to_be_neutral
    return sorted(other.items())


def _text(known: type) -> ast.Module:
    path = sys.modules[known.__module__].__file__
    assert path is not None
    return _parsed(path)


@functools.cache
def _parsed(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))


def scales_in(text: ast.Module) -> tuple[set[str], dict[str, bool]]:
    """The fields by which something is multiplied or divided; and those which, with the given value, let a factor be one."""
    kept = {
        target.attr: field
        for node in ast.walk(text)
        if isinstance(node, ast.Assign) and (field := field_of_config(node.value))
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }
    factors = set[str]()
    for node in ast.walk(text):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
            sides = [side for side in (node.left, node.right) if isinstance(side, ast.Attribute)]
            factors.update(field_of_config(side) or kept.get(side.attr, "") for side in sides)
    return factors - {""}, dict(_switches(text))


def _switches(text: ast.Module) -> Iterator[tuple[str, bool]]:
    for node in ast.walk(text):
        if isinstance(node, ast.IfExp) and (field := field_of_config(node.test)):
            for side, value in ((node.body, True), (node.orelse, False)):
                if isinstance(side, ast.Constant) and type(side.value) is float and side.value == 1.0:
                    yield field, value


def field_of_config(node: ast.expr) -> str:
    """``scale_embedding`` of ``config.scale_embedding`` or ``self.config.scale_embedding``."""
    if not isinstance(node, ast.Attribute):
        return ""
    owner = node.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return node.attr if name == "config" else ""
