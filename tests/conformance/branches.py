"""Forwards that take one of two ways by a field of the config, and classes that it chooses between.

With the default, sites on the other way would never be tried.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from adapter_runtime.contract.registry import registered
from conformance.adapted import adapted_subjects
from conformance.emitted import is_site, modeling_module, source_of
from conformance.subjects import Subject, upstream_runs


def subjects_of_all_branches(model_type: str) -> tuple[Subject, ...]:
    """The subjects of a model type; and each with the other value of a field that decides whether a site is reached.

    Not every value of a field suits all others: what upstream itself cannot run is left out.
    """
    subjects = adapted_subjects(model_type)
    turned = [
        other for subject in subjects for field in _fields(subject) if upstream_runs(other := _turned(subject, field))
    ]
    return (*subjects, *turned)


def _fields(subject: Subject) -> list[str]:
    """The boolean fields of the config that an emitted site stands under, or that bring in a class with sites."""
    config = subject.config()
    booleans = {name for name, value in vars(config).items() if isinstance(value, bool) and not name.startswith("_")}
    changed = {name for name, _ in subject.changes}
    guards = {*_guards(ast.parse(source_of(modeling_module(subject.model_type))))}
    missing = _emitted_for(subject.model_type) - _classes(subject)
    bringing = (
        {name for name in booleans - changed - guards if missing & _classes(_turned(subject, name))}
        if missing
        else set()
    )
    return sorted((guards & booleans - changed) | bringing)


def _emitted_for(model_type: str) -> set[str]:
    """Upstream's classes, dotted, whose forwards were edited."""
    return set(registered().own_classes[model_type].with_adapters)


def _classes(subject: Subject) -> set[str]:
    """The classes in upstream's model, dotted; none where it cannot be built."""
    try:
        modules = subject.upstream().modules()
    except Exception:  # whatever upstream raises
        return set()
    return {f"{type(module).__module__}.{type(module).__qualname__}" for module in modules}


def _turned(subject: Subject, field: str) -> Subject:
    value = not getattr(subject.config(), field)
    return replace(subject, label=f"{subject.label}, {field}={value}", changes=(*subject.changes, (field, value)))


def _guards(node: ast.AST, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The attributes in the tests of all `if` above a site."""
    if is_site(node):
        yield from above
    for child in ast.iter_child_nodes(node):
        inside = isinstance(node, (ast.If, ast.IfExp)) and child is not node.test
        yield from _guards(child, above | _attributes(node.test) if inside else above)


def _attributes(test: ast.expr) -> frozenset[str]:
    return frozenset(node.attr for node in ast.walk(test) if isinstance(node, ast.Attribute))
