"""Whole models inside of a model, which are base models by themselves: the text tower of SigLIP, the vision tower of Qwen2-VL, the
encoder of Whisper. Upstream's tables do not name them, so that they have no model type of their own.

They are planned as base models are, with the layers and paths that they have themselves, and say themselves which methods they
support: a tower may support more than the model around it, of which another tower has no place for a method.

Where do I add a class that must be left alone? In `TowerPlanner._reason`, with the words that `explain` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import BasePlan, Diagnostic, Making, Method, MethodSupport, StackPlan, StreamForm, TowerPlan
from adapter_codegen.parse.automappings import AutoMappings, ModelEntry
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import literal_string
from adapter_codegen.plan.heads.holders import holds, is_whole_model
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import LayerEntry, ModulePlan
from adapter_codegen.plan.parts.learning import (
    gives_codes,
    only_comparisons_read,
    runs_in_file,
    runs_without_gradients,
)
from adapter_codegen.plan.parts.models import has_other_config, is_model
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.entrance.way import trace_to_layers
from adapter_codegen.plan.stream.lists.stacks import FoundStack, HasAttention, find_stacks
from adapter_codegen.plan.stream.stacked import holds_main, layers_of, with_layers

_HALF = "{} is one half of an encoder-decoder, and its config may say that it is the whole."
_OTHER_TOKENS = "{} does not read its tokens as input_ids."
_ENTRIES = "What {} takes as {} may have an entry for each token, and has none for those of a prompt."
_COUNTED = "{} counts positions by its tokens, which a prompt is none of."
# Arguments of a model of tokens for which it is known what a prompt makes of them.
_GROWN = frozenset({"input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids"})
_UNTOUCHED = frozenset(
    {
        "past_key_values",
        "use_cache",
        "cache_position",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
    }
)
# Forms that tensors have wherever they come from. How positions and tokens belong together is up to what embeds the tokens.
_OF_TENSORS = frozenset({StreamForm.PACKED, StreamForm.LENGTH_FIRST, StreamForm.SEVERAL, StreamForm.OTHER})
# Forms of what was made of tokens before, for towers that read none themselves (BLT's, of patches).
_OF_FEATURES = _OF_TENSORS | {StreamForm.GATHERED, StreamForm.SPREAD}


@dataclass(frozen=True)
class Towers:
    """The models of a file beside the base model and its heads."""

    plans: tuple[TowerPlan, ...] = ()
    entries: tuple[LayerEntry, ...] = ()  # of all of their layers
    left: tuple[Diagnostic, ...] = ()  # about those that get no class of their own


@dataclass(frozen=True)
class TowerPlanner:
    """Plans the towers of one model type.

    Args:
        base: the base model of the type.
        planned: names of classes that have a plan already: the base model, and what holds its layers too.
        found: the layers of the file.
        is_layer: whether a class is a layer where it stands in a list.
        answers_for: whether the towers in the base model of another model type of the file are the affair of that type.
    """

    facts: ModuleFacts
    mappings: AutoMappings
    entry: ModelEntry
    base: BasePlan
    planned: frozenset[str]
    found: ModulePlan
    is_layer: HasAttention
    answers_for: Callable[[str], bool]

    def plan(self) -> Towers:
        """Plan each class, in the order of the file."""
        plans: list[TowerPlan] = []
        left: list[Diagnostic] = []
        for name, stacks in self._candidates():
            reason = self._reason(name, stacks)
            tower = reason or self._tower(name, stacks)
            if isinstance(tower, TowerPlan):
                plans.append(tower)
            else:
                left.append(self._left(name, stacks, tower))
        entries = layers_of((tower.base for tower in plans), self.found)
        return Towers(tuple(plans), tuple(entries), tuple(left))

    # Which classes

    def _candidates(self) -> Iterator[tuple[str, Sequence[FoundStack]]]:
        """Models with lists of layers in no model inside of them, that are neither planned nor heads around what is."""
        for name, known in self.facts.classes.items():
            if name in self.planned or not is_model(self.facts, name):
                continue
            if name in self._parts:
                yield name, find_stacks(self.facts, name, self.is_layer)
                continue
            if name in self._mapped or any(
                holds(self.facts, known, base) for base in (self.base.class_name, *self._mapped)
            ):
                continue
            stacks = find_stacks(self.facts, name, self.is_layer)
            if any(not self._models_on_the_way(stack) for stack in stacks) and self._is_ours(name):
                yield name, stacks

    @cached_property
    def _parts(self) -> frozenset[str]:
        """Classes of this file that are parts: with a mixin here, whether or not other model types have one for them."""
        return frozenset(part.class_name for part in self.base.parts if part.making is Making.OWN)

    def _models_on_the_way(self, stack: FoundStack) -> list[str]:
        return [owner for owner in stack.owners[1:] if is_model(self.facts, owner)]

    @cached_property
    def _mapped(self) -> frozenset[str]:
        """The base models of other model types, each of which is generated by itself or refused."""
        return frozenset(name for names in self.mappings.bases.values() for name in names) - {self.base.class_name}

    def _is_ours(self, name: str) -> bool:
        """Whether a class is in the base model, or in that of no other model type that answers for it."""
        if self._outer(self.base.class_name, name):
            return True
        others = (other for other in self.mappings.model_types_of(self.entry.path) if other != self.entry.model_type)
        bases = {other: self.mappings.entry(other).base_class for other in others}
        return not any(self._outer(base, name) and self.answers_for(other) for other, base in bases.items())

    def _outer(self, base: str, name: str) -> list[FoundStack]:
        """The stacks of a base model that stand in a class."""
        return [stack for stack in find_stacks(self.facts, base, self.is_layer) if name in stack.owners]

    def _reason(self, name: str, stacks: Sequence[FoundStack]) -> str:
        """Why a class must be left alone; "" where nothing is against it."""
        known = self.facts.classes[name]
        layers = {layer for plan in self.found.entries for layer in (plan.plan.class_name, *plan.classes)}
        if parts := list(self._foreign(known)):
            return f"it holds models of other files: {', '.join(parts)}"
        if name in layers:
            return "it is a layer of another model, or a part of one"
        if not self._is_built(name) and (other := self._other_name(known)):
            return f"it is another name of {other}"
        if not self._is_built(name) and not self._is_offered(name) and self._derived(name):
            return "it is an abstract base of other classes"
        if runs_without_gradients(self.facts, name):
            return "upstream runs it without gradients"
        if only_comparisons_read(self.facts, name, runs_in_file(self.facts, name)):
            return "upstream reads only what comes out of comparisons, through which no gradient passes"
        flow = trace_to_layers(self.facts, name, stacks)
        return "it gives codes, which have no gradient" if flow is not None and gives_codes(flow, stacks) else ""

    def _foreign(self, known: ClassFacts) -> Iterator[str]:
        """Models in a class that are of another file, or that an auto class makes."""
        for submodule in known.submodules.values():
            for name in submodule.classes:
                if name not in self.facts.classes and is_whole_model(self.facts, name):
                    yield f"{submodule.name} ({name})"

    def _is_built(self, name: str) -> bool:
        """Whether another class of the file holds it."""
        holding = (one.classes for known in self.facts.classes.values() for one in known.submodules.values())
        return any(name in classes for classes in holding)

    def _is_offered(self, name: str) -> bool:
        """Whether the file offers it, in ``__all__``."""
        offered = self.facts.assignments.get("__all__")
        elements = offered.elements if isinstance(offered, (cst.List, cst.Tuple)) else ()
        return name in {literal_string(element.value) for element in elements}

    def _other_name(self, known: ClassFacts) -> str:
        """The class from which it has all of its lists: an old name of that one."""
        own = known.submodules.keys()
        parents = (parent for parent in known.lineage[1:] if parent in self.facts.classes)
        return next((name for name in parents if own and self.facts.classes[name].submodules.keys() == own), "")

    def _derived(self, name: str) -> bool:
        return any(name in known.lineage[1:] for known in self.facts.classes.values())

    def _left(self, name: str, stacks: Sequence[FoundStack], reason: str) -> Diagnostic:
        paths = ", ".join(stack.path for stack in stacks)
        location = self.facts.location(self.facts.classes[name].node)
        return Problem.NO_CLASS_OF_ITS_OWN.diagnostic(location, name=name, paths=paths, reason=reason)

    # What each is

    def _tower(self, name: str, stacks: Sequence[FoundStack]) -> TowerPlan | str:
        """The plan of a class; where there is none, why not."""
        plan, doubts = plan_base(self.facts, replace(self.entry, base_class=name), self.is_layer)
        if plan is None:
            return doubts[0].message
        plan = self._as_around(with_layers(plan, self.found))
        entries = layers_of([plan], self.found)
        if plan.is_of_parts or not holds_main(plan, entries):
            return "its layers were not recognised"
        methods = _without(plan, plan_methods(plan, entries, doubts), self._lost(plan))
        return TowerPlan(plan, methods) if any(one.supported for one in methods) else methods[0].reason

    def _as_around(self, plan: BasePlan) -> BasePlan:
        """With the forms of tensors that only the model around a tower shows: it may be given them."""
        outer = {stack.path for stack in self._outer(self.base.class_name, plan.class_name)}
        reads_tokens = plan.token_embeddings or any(one.name.endswith("input_ids") for one in plan.parameters)
        forms = _OF_TENSORS if reads_tokens else _OF_FEATURES
        shown = [
            stack for stack in (*self.base.stacks, *self.base.inner) if stack.path in outer and stack.form in forms
        ]
        return replace(plan, stacks=tuple(_with_form_of(stack, shown) for stack in plan.stacks))

    def _lost(self, plan: BasePlan) -> dict[Method, str]:
        """Methods that a tower has a place for, and that would go wrong there, with the reasons."""
        names = {parameter.name for parameter in plan.parameters if parameter.kind not in ("args", "kwargs")}
        if not plan.is_encoder_decoder and "decoder_input_ids" in names:
            return dict.fromkeys((Method.PROMPT_TUNING, Method.REFT), _OTHER_TOKENS.format(plan.class_name))
        return {**_against_prompt(plan, names), **self._lost_by_halves(plan, "past_key_values" in names)}

    def _lost_by_halves(self, plan: BasePlan, decodes: bool) -> dict[Method, str]:
        """What goes by a config which says encoder-decoder, as the runtime does, where a class is a half of one.

        A prompt would enter twice, and after what a cache holds the tokens of a decoder would be counted from its start.
        """
        known, whole = (self.facts.classes[name] for name in (plan.class_name, self.base.class_name))
        if not self.base.is_encoder_decoder or (not decodes and has_other_config(self.facts, known, whole)):
            return {}
        lost = (Method.PROMPT_TUNING, *([Method.REFT] if decodes else []))
        return dict.fromkeys(lost, _HALF.format(plan.class_name))


def _against_prompt(plan: BasePlan, names: Set[str]) -> dict[Method, str]:
    """Why a prompt among tokens would not fit to what else a forward takes or makes of them; {} where nothing is against it."""
    if not plan.token_embeddings:
        return {}
    if others := sorted(names - _GROWN - _UNTOUCHED):
        return {Method.PROMPT_TUNING: _ENTRIES.format(plan.class_name, ", ".join(others))}
    counts = not names & {"inputs_embeds", "position_ids"}
    return {Method.PROMPT_TUNING: _COUNTED.format(plan.class_name)} if counts else {}


def _without(
    plan: BasePlan, methods: Sequence[MethodSupport], lost: Mapping[Method, str]
) -> tuple[MethodSupport, ...]:
    return tuple(
        (
            replace(one, supported=False, reason=lost[one.method], location=plan.location)
            if one.method in lost and one.supported
            else one
        )
        for one in methods
    )


def _with_form_of(stack: StackPlan, shown: Sequence[StackPlan]) -> StackPlan:
    if stack.form is not StreamForm.ROWS:
        return stack
    same = next((one for one in shown if f".{one.path}".endswith(f".{stack.path}")), None)
    return stack if same is None else replace(stack, form=same.form, shown=same.shown)
