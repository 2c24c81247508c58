"""Forwards that take one of two ways by a field of the config, classes that it chooses between, and numbers that are left open.

With the default, sites on the other way would never be tried.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from adapter_runtime.contract.registry import registered
from conformance.adapted import adapted_subjects, holding_subjects
from conformance.emitted import is_site, modeling_module, source_of
from conformance.scales import field_of_config
from conformance.subjects import Subject, upstream_runs

Turn = tuple[str, Any]  # a field of the config, and another value for it
A_NUMBER = 3  # fits no width of a tiny instance


def subjects_of_all_branches(model_type: str) -> tuple[Subject, ...]:
    """The subjects of a model type, one for each class that holds its layers; and each with another value of a field that decides whether a site is reached, or with a
    number for one that a class with sites asks for.

    Not every value of a field suits all others: what upstream itself cannot run is left out.
    """
    subjects = (*adapted_subjects(model_type), *holding_subjects(model_type))
    others = [subject.changed(turn) for subject in subjects for turn in _turns(subject)]
    others += [subject.changed((field, A_NUMBER)) for subject in subjects for field in _open_numbers(subject)]
    return (*subjects, *filter(upstream_runs, others))


def _turns(subject: Subject) -> list[Turn]:
    """Other values of the fields of the config that an emitted site stands under, or that bring in a class with sites."""
    changed = {name for name, _ in subject.changes}
    texts = _compared_texts(subject.model_type)
    turns = [
        (name, other)
        for name, value in vars(subject.config()).items()
        if not name.startswith("_") and name not in changed
        for other in _others(value, texts.get(name, set()))
    ]
    guards = {*_guards(ast.parse(source_of(modeling_module(subject.model_type))))}
    missing = _emitted_for(subject.model_type) - _classes(subject)
    return sorted(
        turn for turn in turns if turn[0] in guards or (missing and missing & _classes(subject.changed(turn)))
    )


def _others(value: Any, texts: set[str]) -> list[Any]:
    """What a field may be instead of `value`: the other boolean, or another of the texts that it is compared to."""
    if isinstance(value, bool):
        return [not value]
    return sorted(texts - {value}) if value is None or isinstance(value, str) else []


def _compared_texts(model_type: str) -> dict[str, set[str]]:
    """Attributes -> the texts that upstream compares them to, where its classes with sites stand."""
    found: dict[str, set[str]] = {}
    for module in {name.rpartition(".")[0] for name in _emitted_for(model_type)}:
        for attribute, texts in compared_texts(ast.parse(source_of(module))):
            found.setdefault(attribute, set()).update(texts)
    return found


def compared_texts(text: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """``kind`` and its texts, of ``self.kind == "full"``, ``self.kind in ["full", "sliding"]`` and what says the same."""
    for node in ast.walk(text):
        if not isinstance(node, ast.Compare) or len(node.ops) > 1:
            continue
        (operator,), sides = node.ops, (node.left, *node.comparators)
        if isinstance(operator, (ast.In, ast.NotIn)) and isinstance(sides[1], (ast.List, ast.Tuple, ast.Set)):
            asked, literals = sides[0], sides[1].elts
        elif isinstance(operator, (ast.Eq, ast.NotEq)):
            asked, *literals = sides if isinstance(sides[0], ast.Attribute) else reversed(sides)
        else:
            continue
        if isinstance(asked, ast.Attribute):
            values = (one.value for one in literals if isinstance(one, ast.Constant))
            yield asked.attr, {value for value in values if isinstance(value, str)}


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


def _open_numbers(subject: Subject) -> list[str]:
    """The fields that are None and may be a whole number, where a class with sites asks whether they are."""
    config = subject.config()
    asked = {
        name
        for known in map(_class_at, _emitted_for(subject.model_type))
        for name in asked_whether_open(ast.parse(textwrap.dedent(inspect.getsource(known))))
    }
    return sorted(name for name in asked if getattr(config, name, 0) is None and _may_be_whole(type(config), name))


def _class_at(dotted: str) -> type:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def asked_whether_open(text: ast.AST) -> set[str]:
    """``padding`` of ``config.padding is not None``."""
    compared = [node for node in ast.walk(text) if isinstance(node, ast.Compare)]
    with_none = [node for node in compared if isinstance(node.ops[0], (ast.Is, ast.IsNot))]
    return {field_of_config(node.left) for node in with_none} - {""}


def _may_be_whole(known: type, name: str) -> bool:
    said = next((vars(one)["__annotations__"][name] for one in known.__mro__ if name in _annotated(one)), "")
    return "int" in re.findall(r"\w+", str(said))


def _annotated(known: type) -> dict[str, Any]:
    return vars(known).get("__annotations__", {})


def _guards(node: ast.AST, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """The attributes in the tests of all `if` above a site."""
    if is_site(node):
        yield from above
    for child in ast.iter_child_nodes(node):
        inside = isinstance(node, (ast.If, ast.IfExp)) and child is not node.test
        yield from _guards(child, above | _attributes(node.test) if inside else above)


def _attributes(test: ast.expr) -> frozenset[str]:
    return frozenset(node.attr for node in ast.walk(test) if isinstance(node, ast.Attribute))
