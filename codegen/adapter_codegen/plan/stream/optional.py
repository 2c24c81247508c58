"""What only some instances of a layer have: paths to modules that upstream creates under a condition, and statements that a
forward reaches by a flag, which the constructor sets once for all calls.

``if self.channel_attention:`` stands around a sublayer that a layer has or has not. What is reached only there needs no place in
a layer without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.model import LayerPlan
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import assigned_attributes, descendants, self_attribute
from adapter_codegen.plan.flow.modules import find_submodule, local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Frame, Op, Value, ancestors
from adapter_codegen.plan.stream.conditions import tests_around


def optional_paths(plan: LayerPlan, facts: ModuleFacts) -> tuple[str, ...]:
    """The beginnings, up to the conditional module, of all paths in a plan that lead through one; sorted."""
    starts = (optional_start(path, plan.class_name, facts) for path in _paths(plan))
    return tuple(sorted({start for start in starts if start}))


def _paths(plan: LayerPlan) -> Iterator[str]:
    for roles in plan.attentions:
        yield from (roles.core, roles.query, roles.key, roles.value, roles.fused, roles.output)
        yield from (*roles.query_alternatives, *roles.value_beside)
    yield from (path for role in plan.bottlenecks for path in (role.host, role.sublayer) if path)
    yield from (*plan.mlp.first, *plan.mlp.gate, *plan.mlp.last, *plan.mixer.first, *plan.mixer.last)


def optional_start(path: str, class_name: str, facts: ModuleFacts) -> str:
    """``parts.1`` of ``parts.1.linear``, if upstream creates it only under a condition; "" where all is always there."""
    classes: tuple[str, ...] = (class_name,)
    places: tuple[tuple[str, ...], ...] = ()
    parts = path.split(".") if path else []
    for index, part in enumerate(parts):
        if part.lstrip("-").isdigit() or part == "*":
            if part != "*" and -len(places) <= int(part) < len(places):
                if 0 < int(part) < len(places) - 1:  # of a written list, the ends are always there
                    return ".".join(parts[: index + 1])
                classes = places[int(part)]
            continue
        submodule = find_submodule(facts, classes, part)
        if submodule is None:
            return ""  # a host that adapters will create
        owners = [facts.classes[name] for name in map(local_class, classes) if name in facts.classes]
        if submodule.conditional or any(part not in owner.submodules for owner in owners):
            return ".".join(parts[: index + 1])
        classes, places = submodule.classes, submodule.places
    return ""


def is_named_element(path: str, class_name: str, facts: ModuleFacts) -> bool:
    """Whether a path leads through an element of an nn.ModuleDict: which names there are is for a config to say."""
    classes: tuple[str, ...] = (class_name,)
    for part in path.split("."):
        if part == "*" or part.lstrip("-").isdigit():
            continue
        submodule = find_submodule(facts, classes, part)
        if submodule is None:
            return False
        if submodule.container == "ModuleDict":
            return True
        classes = submodule.classes
    return False


@dataclass(frozen=True, order=True)
class Flag:
    """An attribute that a test reads, and whether it must be true."""

    name: str
    is_true: bool


def flags_around(statement: cst.CSTNode, frame: Frame, facts: ModuleFacts) -> frozenset[Flag]:
    """The flags of the module of `frame` without which its function does not reach `statement`."""
    known = facts.classes.get(frame.class_name)
    function = known.functions.get(frame.function) if known is not None else None
    if function is None:
        return frozenset()
    tests = tests_around(statement, function.node.body) or ()
    found = {flag for test, holds in tests if (flag := _flag(test, holds)) is not None}
    return frozenset(flag for flag in found if _is_set_once(flag.name, frame.class_name, facts))


def module_needed(value: Value, scene: Scene) -> str:
    """The path of a module that only some layers have and that `value` is computed with in any case; "" where there is none.

    It tells where a place is that stands under a test which is no flag: ``if self.kind == "divided":``. Under tests of what a call is
    given, and under none, it tells nothing: there the module itself may be tested for.
    """
    known = scene.facts.classes.get(value.frame.class_name)
    function = known.functions.get(value.frame.function) if known is not None else None
    if function is None or value.statement is None:
        return ""
    tests = tests_around(value.statement, function.node.body) or ()
    if not any(_reads_self_alone(test) and _flag(test, holds) is None for test, holds in tests):
        return ""
    certain = ancestors(value, lambda one: one.op is Op.JOIN).values()
    calls = [one.path for one in certain if one.op is Op.SUBMODULE and one.frame is value.frame]
    return next(filter(None, (optional_start(path, scene.flow.root.class_name, scene.facts) for path in calls)), "")


def _reads_self_alone(test: cst.BaseExpression) -> bool:
    """Whether a test compares attributes of ``self``, and asks nothing else."""
    nodes = list(descendants(test))
    attributes = [node.attr for node in nodes if isinstance(node, cst.Attribute)]
    names = [node for node in nodes if isinstance(node, cst.Name) and not any(node is one for one in attributes)]
    return {name.value for name in names} == {"self"} and not any(isinstance(node, cst.Call) for node in nodes)


def _flag(test: cst.BaseExpression, holds: bool) -> Flag | None:
    """``self.name`` or ``not self.name``; of a conjunction or a comparison nothing is known here."""
    if isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not):
        return _flag(test.expression, not holds)
    name = self_attribute(test)
    return Flag(name, holds) if name else None


def _is_set_once(name: str, class_name: str, facts: ModuleFacts) -> bool:
    """Whether the constructor of a class, or of one above it, sets an attribute, and nothing else in the file one of that name."""
    lineage = [facts.classes[above] for above in facts.classes[class_name].lineage if above in facts.classes]
    constructors = [init.node for known in lineage if (init := known.functions.get("__init__"))]
    if not any(self_attribute(target) == name for node in constructors for target in assigned_attributes(node, name)):
        return False
    inits = [found.node for known in facts.classes.values() if (found := known.functions.get("__init__"))]
    own = {id(target) for node in inits for target in assigned_attributes(node, name) if self_attribute(target)}
    return all(id(target) in own for target in assigned_attributes(facts.tree, name))
