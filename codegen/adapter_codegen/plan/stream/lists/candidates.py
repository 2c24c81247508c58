"""Which classes are layers: held in a list that a forward runs through, with attention somewhere inside.

In a file without attention whose models read tokens (Mamba, RWKV, FNet), they are those with projections inside. Where images
are read, these may be anything: the stages of a convolutional network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import descendants, dotted_name
from adapter_codegen.plan.attention.table import all_signs
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.modules import called_function, local_class


def defined_twice(facts: ModuleFacts) -> frozenset[str]:
    """Classes that are others where another package is installed (xLSTM)."""
    defined = Counter(node.name.value for node in descendants(facts.tree) if isinstance(node, cst.ClassDef))
    return frozenset(name for name, count in defined.items() if count > 1)


class Candidates:
    """Answers for one file."""

    def __init__(self, facts: ModuleFacts, kinds: Kinds) -> None:
        self._facts = facts
        self._kinds = kinds
        self._attending: dict[str, bool] = {}
        self._signs = all_signs()

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Layer classes in the order of the file. A class that holds another layer class in a list is a group of layers."""
        held = {name for known in self._facts.classes.values() for name in self._elements(known)}
        inner = {name: self._lists_within(name, set()) & held for name in held}
        return tuple(name for name in self._facts.classes if name in held and not inner[name])

    @cached_property
    def have_attention(self) -> bool:
        """Whether any layers of the file may attend."""
        lists = (self._in_lists(known) for known in self._facts.classes.values())
        return any(self.has_attention(name) for found in lists for local in found for name in local)

    def is_layer(self, name: str) -> bool:
        """Whether a class has what makes it a layer where it stands in a list."""
        if self.have_attention or not self._reads_tokens:
            return self.has_attention(name)
        return name not in self._defined_twice and self._has_projections(name, frozenset())

    @cached_property
    def _defined_twice(self) -> frozenset[str]:
        return defined_twice(self._facts)

    @cached_property
    def _reads_tokens(self) -> bool:
        """Whether a forward of the file takes ``input_ids``."""
        forwards = (known.functions.get("forward") for known in self._facts.classes.values())
        return any(forward is not None and "input_ids" in forward.parameters for forward in forwards)

    def _has_projections(self, name: str, seen: frozenset[str]) -> bool:
        known = self._facts.classes.get(local_class(name))
        if known is None or name in seen:
            return self._kinds.of_class(name) is Kind.LINEAR
        inner = {inner for submodule in known.submodules.values() for inner in submodule.classes}
        return any(self._has_projections(inner_name, seen | {name}) for inner_name in inner)

    def _elements(self, known: ClassFacts) -> Iterator[str]:
        """Local classes in lists of `known`, if one of them has attention: the others of the list are layers too."""
        for local in self._in_lists(known):
            if any(map(self.is_layer, local)):
                yield from (name for name in local if "forward" in self._facts.classes[name].functions)

    def _in_lists(self, known: ClassFacts) -> Iterator[list[str]]:
        """The local classes in each list of `known` that is run through."""
        for submodule in known.submodules.values():
            runs = _is_looped_over if submodule.container == "Sequential" else _is_iterated
            if submodule.in_list and runs(known, submodule):
                yield [local_class(name) for name in submodule.classes if local_class(name) in self._facts.classes]

    def _lists_within(self, name: str, seen: set[str]) -> set[str]:
        """Element classes of all lists anywhere in a class."""
        known = self._facts.classes.get(name)
        if known is None or name in seen:
            return set()
        seen.add(name)
        found = set(self._elements(known))
        for submodule in known.submodules.values():
            for inner in submodule.classes:
                found |= self._lists_within(local_class(inner), seen)
        return found - {name}

    def has_attention(self, name: str) -> bool:
        """Whether a class, or a class in it, has what may be an attention core in its text."""
        if name not in self._attending:
            self._attending[name] = False  # while a class that holds itself is being looked at
            self._attending[name] = self._look(name)
        return self._attending[name]

    def _look(self, name: str) -> bool:
        known = self._facts.classes.get(local_class(name))
        if known is None:
            return self._kinds.of_class(name) is Kind.TORCH_ATTENTION
        if any(self.has_attention(local_class(inner)) for s in known.submodules.values() for inner in s.classes):
            return True
        if any(self._is_attention(s) for s in known.submodules.values()):
            return True
        return any(self._calls_core(function.node) for key, function in known.functions.items() if key != "__init__")

    def _is_attention(self, submodule: Submodule) -> bool:
        classes = {local_class(name) for name in submodule.classes}
        is_sign = bool(classes) and classes <= self._signs.modules
        return is_sign or self._kinds.of(submodule.classes) is Kind.TORCH_ATTENTION

    def _calls_core(self, node: cst.CSTNode, depth: int = 2) -> bool:
        names = _Names(node)
        if names.found & self._signs.names or names.calls & self._signs.calls:
            return True
        calls = (inner for inner in descendants(node) if isinstance(inner, cst.Call))
        known = [function for call in calls if (function := called_function(self._facts, call)) is not None]
        return depth > 0 and any(self._calls_core(function, depth - 1) for function in known)


class _Names:
    """Every identifier below a node, and the last names of what is called there."""

    def __init__(self, node: cst.CSTNode) -> None:
        self.found: set[str] = set()
        self.calls: set[str] = set()
        for inner in descendants(node):
            if isinstance(inner, cst.Name):
                self.found.add(inner.value)
            elif isinstance(inner, cst.Call):
                func = inner.func
                self.calls.add(func.attr.value if isinstance(func, cst.Attribute) else dotted_name(func))


def _is_iterated(known: ClassFacts, submodule: Submodule) -> bool:
    """Whether the list is run through, and not just a place for parts: ``self.layer[0](x)``."""
    uses = _Uses(submodule.name)
    for name, function in known.functions.items():
        if name != "__init__":
            function.node.visit(uses)
    return uses.whole > 0 or uses.indexed == 0


def _is_looped_over(known: ClassFacts, submodule: Submodule) -> bool:
    """Whether a forward runs through the elements one by one. A sequence that is called is a block of its parts."""
    for name, function in known.functions.items():
        loops = (node for node in descendants(function.node) if isinstance(node, cst.For) and name != "__init__")
        for loop in loops:
            uses = _Uses(submodule.name)
            loop.iter.visit(uses)
            if uses.whole:
                return True
    return False


class _Uses(cst.CSTVisitor):
    """Counts ``self.<name>[<number>]`` and all other mentions of ``self.<name>``."""

    def __init__(self, name: str) -> None:
        self._name = f"self.{name}"
        self.indexed = 0
        self.whole = 0

    def visit_Subscript(self, node: cst.Subscript) -> bool:
        part = node.slice[0].slice
        if dotted_name(node.value) == self._name and isinstance(part, cst.Index):
            if isinstance(part.value, (cst.Integer, cst.UnaryOperation)):
                self.indexed += 1
                return False
        return True

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self.whole += dotted_name(node) == self._name
