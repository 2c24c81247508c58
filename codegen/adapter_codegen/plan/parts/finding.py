"""Where a model holds other models, in the order in which they are registered.

A model counts where it is not of this file, or takes a config of another class than the model around it. What takes the same
config (T5's encoder, what DPR wraps BERT in) and what is no model is looked into, and so a part may stand several modules deep. What
is made before and handed to such a module (Grounding DINO's backbone) stands where that puts it.
What a part holds is the part's own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from adapter_codegen.model import Making, PartPlan
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.parts.elsewhere import Class, Elsewhere
from adapter_codegen.plan.parts.making import Configs, auto_class, handed_on, is_handed_in, making_of
from adapter_codegen.plan.parts.near_misses import Suspect, near_miss
from adapter_codegen.plan.parts.running import Runs, asked_from_outside

HasLayers = Callable[[str], bool]  # name of a class of the file -> whether it holds a list of layers

# What is read -> how the parameters of a forward that take it begin.
_READS = {
    "tokens": ("input_ids",),
    "images": ("pixel_values",),
    "audio": ("input_features", "input_values"),
    "features": ("hidden_states", "inputs_embeds", "query_embeds", "encoder_hidden_states"),
}
_OF_BACKBONES = ("images",)
_RAW = ("tokens", "images", "audio")


def find_models(
    facts: ModuleFacts, root: ClassFacts, has_layers: HasLayers, elsewhere: Elsewhere | None = None
) -> tuple[PartPlan, ...]:
    """The models inside the model of a class.

    Args:
        elsewhere: answers about other files. Without it, what is known of this file alone.
    """
    search = _Search(facts, root, has_layers, elsewhere)
    return tuple(search.below(_Place(root, "", Configs.of_root(root), False, ())))


def reads(forward: tuple[str, ...]) -> tuple[str, ...]:
    """What a forward with these parameters reads: features only where it takes nothing else."""
    found = tuple(what for what, names in _READS.items() if any(one.startswith(names) for one in forward))
    return tuple(what for what in found if what in _RAW) or found


@dataclass(frozen=True)
class _Place:
    """A class that is looked into, and the way to it."""

    known: ClassFacts
    path: str
    configs: Configs
    is_optional: bool
    around: tuple[str, ...]  # the classes on the way, none of which is looked into twice


@dataclass(frozen=True)
class _Search:
    facts: ModuleFacts
    root: ClassFacts
    has_layers: HasLayers
    elsewhere: Elsewhere | None

    def below(self, place: _Place) -> Iterator[PartPlan]:
        if place.known.name in place.around:
            return
        for submodule in place.known.submodules.values():
            if not submodule.in_list:
                yield from self._at(place, submodule)

    def _at(self, place: _Place, submodule: Submodule) -> Iterator[PartPlan]:
        part = next(filter(None, (self._model(place, submodule, name) for name in submodule.classes)), None)
        if part is not None:
            yield part
        else:
            yield from self._inside(place, submodule)

    def _inside(self, place: _Place, submodule: Submodule) -> Iterator[PartPlan]:
        known = (self.facts.classes.get(local_class(name)) for name in submodule.classes)
        inner = next(filter(None, known), None)
        if inner is not None:
            configs = place.configs.within(inner, submodule.arguments)
            is_optional = place.is_optional or submodule.conditional
            around = (*place.around, place.known.name)
            there = _Place(inner, _joined(place.path, submodule.name), configs, is_optional, around)
            for handed in handed_on(inner, submodule):  # made here, of configs that have their names here
                yield from self._at(replace(there, configs=place.configs), handed)
            yield from self.below(there)

    def _model(self, place: _Place, submodule: Submodule, name: str) -> PartPlan | None:
        found = making_of(self.facts, self.root, submodule, name)
        if found is None:
            return None
        making, made = found
        config_path = place.configs.made_from(name, submodule.arguments)
        other = self._other(making, made, name, config_path)
        if making is Making.IMPORTED and (other is None or not other.is_model):
            return None
        if making is not Making.OWN and is_handed_in(place.known, submodule.name):
            making = Making.GIVEN
        own = made if making is Making.OWN else ""
        runs = Runs(place.known, submodule.name, self._asked if place.known is self.root else None)
        class_name = own or (other.name if other is not None else "")
        usual = self.elsewhere.default_type(config_path) if self.elsewhere is not None and not class_name else ""
        suspect = Suspect(self.facts, own, other, bool(own) and self._holds_layers(own, place), runs)
        return PartPlan(
            path=_joined(place.path, submodule.name),
            making=making,
            location=self.facts.location(submodule.node),
            class_name=class_name,
            usual_type=usual,
            made_by=name if making in (Making.AUTO, Making.BACKBONE, Making.GIVEN) else "",
            config_path=config_path,
            is_optional=place.is_optional or (submodule.conditional and making is not Making.GIVEN),
            reads=reads(self._forward(own, other)) or (_OF_BACKBONES if making is Making.BACKBONE else ()),
            near_miss=near_miss(suspect),
            unprepared=_of_no_type(other),
        )

    @cached_property
    def _asked(self) -> frozenset[str]:
        return asked_from_outside(self.facts, self.root.name)

    def _other(self, making: Making, made: str, name: str, config_path: str | None) -> Class | None:
        if self.elsewhere is None or making is Making.OWN:
            return None
        if making is Making.IMPORTED:
            return self.elsewhere.imported(made)
        return self.elsewhere.made(auto_class(name), config_path)

    def _holds_layers(self, name: str, place: _Place) -> bool:
        """Whether a class of this file has layers, or parts that may have some."""
        if self.has_layers(name):
            return True
        known = self.facts.classes[name]
        inner = _Search(self.facts, known, self.has_layers, self.elsewhere)
        around = (*place.around, place.known.name)
        return any(part.is_part for part in inner.below(_Place(known, "", Configs.of_root(known), False, around)))

    def _forward(self, own: str, other: Class | None) -> tuple[str, ...]:
        if own:
            forward = self.facts.classes[own].functions.get("forward")
            return forward.parameters if forward is not None else ()
        return other.forward if other is not None else ()


def _of_no_type(other: Class | None) -> str:
    """Why a class of another file gets no adapters: files are read for the model types that have their base model there (BLIP's text)."""
    if other is None or other.has_type:
        return ""
    return f"{other.name} stands in {other.path}, in which no model type has its base model, so that no adapter classes are made for it."


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
