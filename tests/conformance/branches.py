"""Forwards that take one of two ways by a field of the config: with the default, sites on the other way would never be tried."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from conformance.adapted import adapted_subjects, upstream_runs
from conformance.emitted import is_site, modeling_module, source_of
from conformance.subjects import Subject


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
    """The boolean fields of the config that an emitted site stands under."""
    source = source_of(modeling_module(subject.model_type))
    names = {name for name in _guards(ast.parse(source)) if isinstance(getattr(subject.config(), name, None), bool)}
    return sorted(names - {name for name, _ in subject.changes})


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
