"""Where a base model keeps its layers: paths of the module lists whose elements hold attention.

A list of layers may stand in a submodule (``encoder.layer``), and its elements may be groups that hold the lists
themselves (``encoder.groups.*.layers``; "*" stands for every element), or hold what holds them (``encoder.layer.*.transformer.layer``).
Of a hybrid model, some of these elements have no layers (convolutions between the stages). A layer may also hold a list of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.plan.flow.kinds import Kind, Kinds

HasAttention = Callable[[str], bool]  # class name -> whether it or anything in it holds an attention core


@dataclass(frozen=True)
class FoundStack:
    path: str  # from the base model
    classes: tuple[str, ...]  # of the elements
    owners: tuple[str, ...]  # classes on the way, the base model first: their forwards carry the stream to the layers
    without: tuple[str, ...] = ()  # classes of groups on the way that hold no layers, beside those that do


def find_stacks(facts: ModuleFacts, base: str, has_attention: HasAttention) -> tuple[FoundStack, ...]:
    """The lists of layers that the base model holds, in the order in which it builds them.

    A config may choose what holds a list (Wav2Vec2 has two encoders): it is one list all the same, of layers of either.
    """
    stacks: dict[str, FoundStack] = {}
    for found in _Search(facts, has_attention).below(base, "", ()):
        known = stacks.get(found.path, found)
        classes = tuple(dict.fromkeys((*known.classes, *found.classes)))
        owners = tuple(dict.fromkeys((*known.owners, *found.owners)))
        without = tuple(dict.fromkeys((*known.without, *found.without)))
        stacks[found.path] = FoundStack(found.path, classes, owners, without)
    return tuple(stacks.values())


class _Search:
    def __init__(self, facts: ModuleFacts, has_attention: HasAttention) -> None:
        self.facts = facts
        self.has_attention = has_attention
        self.kinds = Kinds(facts)

    def below(self, class_name: str, path: str, owners: tuple[str, ...]) -> Iterator[FoundStack]:
        known = self.facts.classes.get(class_name)
        if known is None or class_name in owners:
            return
        owners = (*owners, class_name)
        for submodule in known.submodules.values():
            here = f"{path}.{submodule.name}" if path else submodule.name
            candidates = [name for name in submodule.classes if self.has_attention(name)]
            if not candidates:
                continue
            if submodule.in_list and not any(self._is_group(name) for name in candidates):
                yield FoundStack(here, submodule.classes, owners)
            else:
                inside = f"{here}.*" if submodule.in_list else here
                others = tuple(name for name in submodule.classes if submodule.in_list and name not in candidates)
                for name in candidates:
                    for found in self.below(name, inside, owners):
                        yield replace(found, without=(*others, *found.without))

    def _is_group(self, class_name: str) -> bool:
        """Whether elements of this class hold whole layers, and not one layer's parts."""
        lists = self._lists_in(class_name, ())
        return any(all(self._is_whole(name) for name in submodule.classes) for submodule in lists)

    def _lists_in(self, class_name: str, seen: tuple[str, ...]) -> Iterator[Submodule]:
        """The lists that a class holds, itself or in a module of its own."""
        known = self.facts.classes.get(class_name)
        for submodule in known.submodules.values() if known and class_name not in seen else ():
            if submodule.in_list:
                yield submodule
                continue
            for name in submodule.classes:
                yield from self._lists_in(name, (*seen, class_name))

    def _is_whole(self, class_name: str) -> bool:
        """A whole layer holds attention in a submodule, and projections beside it."""
        known = self.facts.classes.get(class_name)
        if known is None or not self.has_attention(class_name):
            return False
        attending = [s for s in known.submodules.values() if any(map(self.has_attention, s.classes))]
        others = [s for s in known.submodules.values() if s not in attending]
        return bool(attending) and any(self._projects(submodule, ()) for submodule in others)

    def _projects(self, submodule: Submodule, seen: tuple[str, ...]) -> bool:
        if self.kinds.of(submodule.classes) is Kind.LINEAR:
            return True
        inner: list[ClassFacts] = [
            self.facts.classes[name] for name in submodule.classes if name in self.facts.classes and name not in seen
        ]
        return any(self._projects(s, (*seen, known.name)) for known in inner for s in known.submodules.values())
