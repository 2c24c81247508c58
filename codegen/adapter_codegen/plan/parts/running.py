"""What a forward runs of a model that its class holds, and whether gradients get there.

A forward runs what is called in it and in the helpers that it calls. Upstream's `generate` calls the methods that give features by
themselves, so these count as a forward too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts
from adapter_codegen.parse.syntax import descendants, dotted_name, self_attribute
from adapter_codegen.plan.flow.modules import local_class

FEATURES = re.compile(r"get_\w+_features")  # methods that give what the model makes of images or sounds
_ENTRANCES = re.compile(f"forward|{FEATURES.pattern}")
_WITHOUT_GRADIENT = frozenset({"no_grad", "inference_mode"})
_NEAREST = frozenset({"argmin", "argmax"})
_BY_NAME = frozenset(
    {"self.get_encoder", "self.get_decoder", "self.get_submodule"}
)  # models whose names do not stand there
_MAX_CALLS = 4  # from what a model gives down to where it is looked up


@dataclass(frozen=True)
class Run:
    """A call of a model inside, or of one of its methods; or where it is handed on."""

    method: str  # "forward" where the model itself is called, "" where it is handed on
    has_gradient: bool
    read: tuple[int, ...] | None = None  # which of the values that it gives get names; None = not known, so all


def asked_from_outside(facts: ModuleFacts, class_name: str) -> frozenset[str]:
    """The attributes that forwards of the other classes of a file name: of what they hold, they may ask for these."""
    functions = (
        function.node
        for known in facts.classes.values()
        for name, function in known.functions.items()
        if known.name != class_name and function.owner == known.name and _ENTRANCES.fullmatch(name)
    )
    nodes = (node for function in functions for node in descendants(function.body))
    return frozenset(node.attr.value for node in nodes if isinstance(node, cst.Attribute))


class Runs:
    """The runs of one attribute in the functions of the class that holds it.

    Args:
        asked: names that are asked for from outside; None = of any function of the class.
    """

    def __init__(self, owner: ClassFacts, attribute: str, asked: frozenset[str] | None) -> None:
        self._owner = owner
        self._attribute = attribute
        self._name = f"self.{attribute}"
        self._asked = asked

    @property
    def is_followed(self) -> bool:
        """Whether what does not show as a run is none: there is a forward, and nobody takes the model by another way."""
        return "forward" in self._owner.functions and self._attribute not in (self._asked or ()) and not self._by_name

    @cached_property
    def in_forward(self) -> tuple[Run, ...]:
        return tuple(run for function, gradient in self._reached.values() for run in self._of(function, gradient))

    @cached_property
    def _by_name(self) -> bool:
        """Whether the forward takes models by another way than their attributes."""
        nodes = (node for function, _ in self._reached.values() for node in descendants(function.node.body))
        calls = (node for node in nodes if isinstance(node, cst.Call))
        return any(dotted_name(call.func) in _BY_NAME or _asks_self(call) for call in calls)

    @cached_property
    def _reached(self) -> dict[str, tuple[FunctionFacts, bool]]:
        """The functions that a forward reaches, and whether with gradients on."""
        found: dict[str, tuple[FunctionFacts, bool]] = {}
        todo = [(name, True) for name in self._owner.functions if self._is_entrance(name)]
        while todo:
            name, gradient = todo.pop()
            function = self._owner.functions[name]
            gradient = gradient and not any(stops_gradients(one.decorator) for one in function.node.decorators)
            if name in found and (found[name][1] or not gradient):
                continue
            found[name] = (function, gradient)
            for node, inner in _under_gradient(function.node.body, gradient):
                helper = self_attribute(node) if isinstance(node, cst.Attribute) else ""
                if helper in self._owner.functions:
                    todo.append((helper, inner))
        return found

    def _is_entrance(self, name: str) -> bool:
        if name == "__init__":
            return False
        return self._asked is None or name in self._asked or _ENTRANCES.fullmatch(name) is not None

    def _of(self, function: FunctionFacts, gradient: bool) -> Iterator[Run]:
        read: dict[int, tuple[int, ...] | None] = {}
        for node, inner in _under_gradient(function.node.body, gradient):
            if isinstance(node, cst.Assign):
                read[id(node.value)] = _named_targets(node)
            if isinstance(node, cst.Call) and (path := self._within(node.func)) is not None:
                yield Run(path.partition(".")[0] or "forward", inner, read.get(id(node)))
            elif isinstance(node, cst.Arg | cst.Assign) and self._within(node.value) == "":
                yield Run("", inner)

    def _within(self, node: cst.CSTNode) -> str | None:
        """What of the model an expression names: "" for itself; None where it names something else."""
        name = dotted_name(node)
        if name != self._name and not name.startswith(f"{self._name}."):
            return None
        return name[len(self._name) :].removeprefix(".")


def _named_targets(node: cst.Assign) -> tuple[int, ...] | None:
    """The 1 of ``_, lengths, _ = ...``; None where not all of the values get a name, or none, of their own."""
    target = node.targets[0].target if len(node.targets) == 1 else None
    if not isinstance(target, cst.Tuple) or not all(isinstance(one, cst.Element) for one in target.elements):
        return None
    return tuple(index for index, one in enumerate(target.elements) if dotted_name(one.value) != "_")


def _asks_self(call: cst.Call) -> bool:
    """``getattr(self, name)``"""
    return dotted_name(call.func) == "getattr" and bool(call.args) and dotted_name(call.args[0].value) == "self"


def _under_gradient(node: cst.CSTNode, gradient: bool) -> Iterator[tuple[cst.CSTNode, bool]]:
    """All nodes below one, each with whether gradients are on there."""
    pending = [(node, gradient)]
    while pending:
        item, on = pending.pop()
        yield item, on
        inner = on and not (isinstance(item, cst.With) and any(stops_gradients(one.item) for one in item.items))
        pending.extend((child, inner) for child in reversed(item.children))


def stops_gradients(node: cst.BaseExpression) -> bool:
    """``torch.no_grad()``, or the same as a decorator."""
    name = dotted_name(node.func if isinstance(node, cst.Call) else node)
    return name.rpartition(".")[2] in _WITHOUT_GRADIENT


def looks_up_nearest(facts: ModuleFacts, class_name: str, method: str, depth: int = _MAX_CALLS) -> bool:
    """Whether a method of a class looks for the nearest entry of a table, by a distance or score that it computes.

    What is computed must be local to a function: the place of the last token, which CLIP finds by ``argmax``, comes from arguments.
    """
    known = facts.classes.get(local_class(class_name))
    function = known.functions.get(method) if known is not None else None
    if known is None or function is None or depth == 0:
        return False
    for node in descendants(function.node.body):
        if not isinstance(node, cst.Call):
            continue
        if _is_nearest(node, function):
            return True
        attribute, _, inner = dotted_name(node.func).removeprefix("self.").partition(".")
        classes = known.submodules[attribute].classes if attribute in known.submodules else ()
        if any(looks_up_nearest(facts, name, inner or "forward", depth - 1) for name in classes):
            return True
        if attribute in known.functions and not inner and looks_up_nearest(facts, class_name, attribute, depth - 1):
            return True
    return False


def _is_nearest(call: cst.Call, function: FunctionFacts) -> bool:
    owner, _, name = dotted_name(call.func).rpartition(".")
    if name not in _NEAREST:
        return False
    searched = dotted_name(call.args[0].value) if owner == "torch" and call.args else owner
    return bool(searched) and searched.partition(".")[0] not in {*function.parameters, "self"}
