"""One model type -> `ModelPlan` or `Refusal`: the layers of its file, and the model around them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import (
    BasePlan,
    ClassPlan,
    Diagnostic,
    HolderPlan,
    Location,
    MethodSupport,
    ModelPlan,
    PlanResult,
    Refusal,
    StaticHead,
)
from adapter_codegen.parse import parse_module, read_auto_mappings
from adapter_codegen.parse.aliases import Alias, alias_of
from adapter_codegen.parse.automappings import AutoMappings, ModelEntry
from adapter_codegen.parse.digests import meaning_digest, text_digest
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.licences import header, read_licence
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.heads.config_keys import plan_config_keys, states_width
from adapter_codegen.plan.heads.flexible import only_continues, plan_flexible_heads, to_be_shown, why_not
from adapter_codegen.plan.heads.holders import plan_holders
from adapter_codegen.plan.heads.returned import gives_states
from adapter_codegen.plan.heads.static import plan_static_heads
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import LayerEntry, ModulePlan, plan_module
from adapter_codegen.plan.parts.elsewhere import Elsewhere
from adapter_codegen.plan.parts.of_file import lacks_part, methods_of_parts
from adapter_codegen.plan.parts.roots import RootPlanner
from adapter_codegen.plan.parts.towers import TowerPlanner, Towers
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.stream.lists.unclaimed import unclaimed_softmaxes
from adapter_codegen.plan.stream.stacked import holds_main, layers_of, nothing_recognised, of_parts, with_layers
from adapter_codegen.plan.stream.words import may_name_words
from adapter_codegen.plan.told.overrides import Overrides, apply_override, read_overrides
from adapter_codegen.plan.told.unreached import without_unreached
from adapter_codegen.plan.told.verdicts import Verdicts, own_verdicts
from adapter_codegen.upstream import Release

_NONE_FITS = "None of upstream's classes with a head turns into a flexible one."


def plan_model(
    release: Release,
    model_type: str,
    overrides: Overrides | None = None,
    found: ModulePlan | None = None,
    verdicts: Verdicts | None = None,
) -> PlanResult:
    """Plan one model type of a release.

    Args:
        overrides: entries by model type; None: those of overrides.toml.
        found: what `plan_module` gives for the model's file, where it is known already.
        verdicts: what the conformance checks found; None: those of verdicts.json.

    Raises:
        CodegenError: upstream has no such model type, a file is missing, an override or verdicts.json is wrong.
    """
    mappings = read_auto_mappings(release)
    entry = mappings.entry(model_type)
    verdicts = (own_verdicts() if verdicts is None else verdicts).of(release.version)
    text = release.read(entry.path)
    if refusal := _refused_unread(mappings, entry, verdicts, text):
        return refusal
    facts = parse_module(text, entry.path)
    file = _File(release, mappings, verdicts, text, facts, Candidates(facts, Kinds(facts)), found)
    known = file.understood(entry)
    if isinstance(known, Refusal):
        return known
    plan = file.plan(entry, known)
    if lacks_part(plan):
        whole = file.understood(entry, undivided=True)
        if isinstance(whole, Refusal):
            return whole
        plan = file.plan(entry, whole)
    override = (read_overrides() if overrides is None else overrides).get(model_type)
    told = verdicts.applied(plan if override is None else apply_override(plan, override))
    return without_unreached(told, file.found)


class _Understood(NamedTuple):
    """A base model that supports at least one method."""

    base: BasePlan
    entries: list[LayerEntry]
    methods: tuple[MethodSupport, ...]
    diagnostics: tuple[Diagnostic, ...]


@dataclass(frozen=True, eq=False)
class _File:
    """A file of upstream, in which the base models of several model types may stand."""

    release: Release
    mappings: AutoMappings
    verdicts: Verdicts
    text: str
    facts: ModuleFacts
    candidates: Candidates
    given: ModulePlan | None  # its layers, where they are known already

    @cached_property
    def found(self) -> ModulePlan:
        return self.given or plan_module(self.facts)

    def elsewhere(self, entry: ModelEntry) -> Elsewhere:
        return Elsewhere(self.release, self.mappings, entry)

    def understood(self, entry: ModelEntry, undivided: bool = False) -> _Understood | Refusal:
        """What is known of a base model and its layers together.

        Args:
            undivided: see `plan_base`.
        """
        base, doubts = plan_base(self.facts, entry, self.candidates.is_layer, self.elsewhere(entry), undivided)
        if base is None:
            return Refusal(entry.model_type, doubts)
        base = with_layers(base, self.found)
        entries = layers_of([base], self.found)
        if base.is_of_parts:
            base = of_parts(base, entries, doubts)
        elif not holds_main(base, entries):
            layers = base.stacks[0].layer_classes if base.stacks and not self.found.entries else ()
            softmaxes = unclaimed_softmaxes(self.facts, layers)
            found = (nothing_recognised(base, self.facts), *softmaxes, *doubts, *self.found.diagnostics)
            return Refusal(entry.model_type, found, base)
        # Without layers, all that was found is about others.
        diagnostics = (*doubts, *(_about(entries, self.found) if entries else ()))
        methods = plan_methods(base, entries, doubts)
        if not any(method.supported for method in methods):
            return Refusal(entry.model_type, (nothing_recognised(base, self.facts), *diagnostics), base)
        return _Understood(base, entries, methods, diagnostics)

    def answers_for_towers(self, model_type: str) -> bool:
        """Whether another model type of the file can be written, or the checks found that it must not be."""
        entry = self.mappings.entry(model_type)
        if _refused_unread(self.mappings, entry, self.verdicts, self.text):
            return self.verdicts.refusal(model_type) is not None
        return isinstance(self.understood(entry), _Understood)

    def holders(self, entry: ModelEntry, known: _Understood) -> tuple[HolderPlan, ...]:
        """The classes that hold the layers, or the parts, of the base model themselves."""
        is_layer = self.candidates.is_layer
        holders = plan_holders(self.facts, self.mappings, entry, known.base, known.entries, is_layer, known.methods)
        planned = _names(known, holders)
        elsewhere = self.elsewhere(entry)
        roots = RootPlanner(self.facts, entry, known.base, planned, self.found, is_layer, elsewhere, known.methods)
        return (*holders, *roots.plan())

    def towers(self, entry: ModelEntry, known: _Understood, holders: Sequence[HolderPlan]) -> Towers:
        """The models inside of the base model that are base models by themselves."""
        planned, is_layer = _names(known, holders), self.candidates.is_layer
        answers_for = cache(self.answers_for_towers)  # asked for each class of the file
        planner = TowerPlanner(
            self.facts, self.mappings, entry, known.base, planned, self.found, is_layer, answers_for
        )
        return planner.plan()

    def plan(self, entry: ModelEntry, known: _Understood) -> ModelPlan:
        """The plan of a model type whose base model is understood."""
        base, holders = known.base, self.holders(entry, known)
        towers = self.towers(entry, known, holders)
        of_holders = layers_of((holder.base for holder in holders), self.found)
        entries = list(dict.fromkeys((*known.entries, *of_holders, *towers.entries)))
        keys = plan_config_keys(self.release, entry, self.facts, self.candidates.has_attention)
        states = gives_states(self.facts, base.class_name)
        base = replace(base, gives_states=states, continues=only_continues(entry.heads))
        width, has_words = states_width(self.release, entry, keys), may_name_words(self.facts, base.class_name)
        possible = plan_flexible_heads(entry, base, width, has_words)
        static_heads = plan_static_heads(self.release, entry, self.facts, base, possible, width)
        flexible_heads = _shown(possible, static_heads, to_be_shown(entry, base))
        return ModelPlan(
            model_type=entry.model_type,
            version=self.release.version,
            path=entry.path,
            module=entry.module,
            config_class=entry.config_class,
            config_module=entry.config_module,
            licence=header(self.text),
            base=base,
            classes=_classes(entries, self.found),
            layers=tuple(layer.plan for layer in entries),
            static_heads=static_heads,
            flexible_heads=flexible_heads,
            config_keys=keys,
            methods=methods_of_parts(base, known.methods, towers.plans),
            diagnostics=(*known.diagnostics, *towers.left),
            text_digest=text_digest(self.release.read_bytes(entry.path)),
            meaning_digest=meaning_digest(self.facts.tree),
            holders=holders,
            towers=towers.plans,
            headless=(
                "" if flexible_heads else why_not(entry, base, states_width=width) if not possible else _NONE_FITS
            ),
        )


def _names(known: _Understood, holders: Sequence[HolderPlan]) -> frozenset[str]:
    """The classes that have a plan."""
    return frozenset({known.base.class_name, *(holder.base.class_name for holder in holders)})


def _shown(possible: Sequence[str], static: Sequence[StaticHead], asked: Collection[str] | None) -> tuple[str, ...]:
    """`possible` without those heads that no class of upstream's turns into, which would show that they can stand there.

    Args:
        asked: types of heads that must be shown; None = all, as for a model made of parts.

    Nor those that a class of upstream's shows not to stand there.
    """
    precluded = {name for head in static for name in head.precludes}
    shown = {head.head_type for head in static}
    shown |= {"multilabel_classification"} if "classification" in shown else set()  # the same layers
    others = precluded if asked is None else precluded | {*asked}
    return tuple(head for head in possible if head in shown or (asked is not None and head not in others))


def _refused_unread(mappings: AutoMappings, entry: ModelEntry, verdicts: Verdicts, text: str) -> Refusal | None:
    """The refusal of a model that need not be understood for it: another name of one, one that fails, or may not be copied."""
    if alias := alias_of(mappings, entry.model_type):
        return Refusal(entry.model_type, (_other_name(entry.model_type, alias),))
    if refusal := verdicts.refusal(entry.model_type):
        return refusal
    unknown = read_licence(text).unknown
    return Refusal(entry.model_type, (_unknown_licence(entry, text, unknown),)) if unknown else None


def _other_name(model_type: str, alias: Alias) -> Diagnostic:
    return Problem.OTHER_NAME.diagnostic(
        alias.location, model_type=model_type, other=alias.model_type, config=alias.config_class
    )


def _unknown_licence(entry: ModelEntry, text: str, unknown: str) -> Diagnostic:
    """Parts of a file may only be copied under a licence that is known to allow it."""
    lines = text.splitlines()
    index = next((index for index, line in enumerate(lines) if unknown in line), 0)
    place = Location(entry.path, index + 1, 0, index + 1, len(lines[index]))
    return Problem.UNKNOWN_LICENCE.diagnostic(place, path=entry.path, words=unknown)


def _classes(entries: Sequence[LayerEntry], found: ModulePlan) -> tuple[ClassPlan, ...]:
    touched = {name for entry in entries for name in entry.classes}
    return tuple(copied for copied in found.classes if copied.name in touched)


def _about(entries: Sequence[LayerEntry], found: ModulePlan) -> list[Diagnostic]:
    """Diagnostics of the file, without those about layers that the model does not hold."""
    ours = {name for entry in entries for name in (*entry.classes, entry.plan.class_name)}
    others = [entry for entry in found.entries if not ours & {entry.plan.class_name}]
    foreign = {problem for entry in others for problem in entry.problems}
    mine = {problem for entry in entries for problem in entry.problems}
    return [about for about in found.diagnostics if about not in foreign or about in mine]
