"""One model type -> `ModelPlan` or `Refusal`: the layers of its file, and the model around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import (
    BasePlan,
    ClassPlan,
    Diagnostic,
    Location,
    Method,
    ModelPlan,
    PlanResult,
    Refusal,
    StackPlan,
    StaticHead,
    StreamForm,
)
from adapter_codegen.parse import parse_module, read_auto_mappings
from adapter_codegen.parse.aliases import Alias, alias_of
from adapter_codegen.parse.automappings import AutoMappings, ModelEntry
from adapter_codegen.parse.digests import meaning_digest, text_digest
from adapter_codegen.parse.licences import header, read_licence
from adapter_codegen.plan.config_keys import plan_config_keys
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.heads.flexible import plan_flexible_heads
from adapter_codegen.plan.heads.holders import plan_holders
from adapter_codegen.plan.heads.static import plan_static_heads
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import LayerEntry, ModulePlan, plan_module
from adapter_codegen.plan.parts.elsewhere import Elsewhere
from adapter_codegen.plan.parts.roots import RootPlanner, layers_of
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates
from adapter_codegen.plan.told.overrides import Overrides, apply_override, read_overrides
from adapter_codegen.plan.told.verdicts import Verdicts, own_verdicts
from adapter_codegen.upstream import Release


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
    candidates = Candidates(facts, Kinds(facts))
    elsewhere = Elsewhere(release, mappings, entry)
    base, doubts = plan_base(facts, entry, candidates.is_layer, elsewhere)
    if base is None:
        return Refusal(model_type, doubts)
    found = found or plan_module(facts)
    base = _with_gaps(_with_forms(_without_other_lists(base, found), found), found)
    entries = _of_stacks(base, found)
    if base.is_of_parts:
        base = _of_parts(base, entries, doubts)
    elif not _holds_main(base, entries):
        return Refusal(model_type, (_nothing_recognised(base), *doubts, *found.diagnostics), base)
    diagnostics = (*doubts, *(_about(entries, found) if entries else ()))  # without layers, it is all about others
    methods = plan_methods(base, entries, doubts)
    if not any(method.supported for method in methods):
        return Refusal(model_type, (_nothing_recognised(base), *diagnostics), base)
    holders = plan_holders(facts, mappings, entry, base, entries, candidates.is_layer, methods)
    planned = {base.class_name, *(holder.base.class_name for holder in holders)}
    roots = RootPlanner(facts, entry, base, planned, found, candidates.is_layer, elsewhere, methods)
    holders = (*holders, *roots.plan())
    more = [layer for layer in layers_of(holders, found) if layer not in entries]
    entries = [*entries, *more]
    static_heads = plan_static_heads(release, entry, facts, base)
    plan = ModelPlan(
        model_type=model_type,
        version=release.version,
        path=entry.path,
        module=entry.module,
        config_class=entry.config_class,
        config_module=entry.config_module,
        licence=header(text),
        base=base,
        classes=_classes(entries, found),
        layers=tuple(layer.plan for layer in entries),
        static_heads=static_heads,
        flexible_heads=_flexible_heads(entry, base, static_heads),
        config_keys=plan_config_keys(release, entry, facts, candidates.has_attention),
        methods=methods,
        diagnostics=diagnostics,
        text_digest=text_digest(release.read_bytes(entry.path)),
        meaning_digest=meaning_digest(facts.tree),
        holders=holders,
    )
    override = (read_overrides() if overrides is None else overrides).get(model_type)
    return verdicts.applied(plan if override is None else apply_override(plan, override))


def _flexible_heads(entry: ModelEntry, base: BasePlan, static: Sequence[StaticHead]) -> tuple[str, ...]:
    """Of a model made of parts, those alone that a class of upstream's turns into: it shows that a head can stand there."""
    possible = plan_flexible_heads(entry, base)
    shown = {head.head_type for head in static}
    return tuple(head for head in possible if head in shown) if base.is_of_parts else possible


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


def _without_other_lists(base: BasePlan, found: ModulePlan) -> BasePlan:
    """Without the lists behind the first that hold no layers: attentions alone, flows, heads of estimates."""
    layers = {entry.plan.class_name for entry in found.entries if entry.has_additions}
    kept = [stack for stack in base.stacks[1:] if layers & set(stack.layer_classes)]
    inner = [stack for stack in base.inner if layers & set(stack.layer_classes)]
    return replace(base, stacks=(*base.stacks[:1], *kept), inner=tuple(inner))


def _with_forms(base: BasePlan, found: ModulePlan) -> BasePlan:
    """With what the layers themselves show of their hidden states, where the way to them shows nothing."""
    shown = {entry.plan.class_name: entry for entry in found.entries if entry.form is not StreamForm.ROWS}
    stacks, inner = (tuple(_with_form(stack, shown) for stack in lists) for lists in (base.stacks, base.inner))
    return replace(base, stacks=stacks, inner=inner)


def _with_form(stack: StackPlan, shown: Mapping[str, LayerEntry]) -> StackPlan:
    entry = next((shown[name] for name in stack.layer_classes if name in shown), None)
    if entry is None or stack.form not in (StreamForm.ROWS, StreamForm.NO_TOKENS):
        return stack
    return replace(stack, form=entry.form, shown=entry.shown)


def _with_gaps(base: BasePlan, found: ModulePlan) -> BasePlan:
    """With what the layers of each stack lack."""
    entries = {entry.plan.class_name: entry for entry in found.entries}
    lists = (base.stacks, base.inner)
    stacks, inner = (tuple(_with_gaps_of_layers(stack, entries, base) for stack in of) for of in lists)
    return replace(base, stacks=stacks, inner=inner)


def _with_gaps_of_layers(stack: StackPlan, entries: Mapping[str, LayerEntry], base: BasePlan) -> StackPlan:
    gaps: dict[Diagnostic, None] = {}
    second: dict[Diagnostic, None] = {}
    for name in stack.layer_classes:
        if name in entries:
            gaps |= dict.fromkeys(entries[name].gaps)
            second |= dict.fromkeys(entries[name].second)
        else:
            gaps[_not_planned(stack, name, base)] = None
    return replace(stack, gaps=tuple(gaps), second=tuple(second))


def _not_planned(stack: StackPlan, name: str, base: BasePlan) -> Diagnostic:
    return Problem.LAYER_NOT_PLANNED.diagnostic(base.location, (Method.BOTTLENECK,), path=stack.path, name=name)


def _of_stacks(base: BasePlan, found: ModulePlan) -> list[LayerEntry]:
    """The layer classes that the stacks of the base model hold, and those of its parts in this file."""
    wanted = {name for stack in (*base.stacks, *base.inner) for name in stack.layer_classes}
    return [entry for entry in found.entries if entry.plan.class_name in wanted]


def _holds_main(base: BasePlan, entries: Sequence[LayerEntry]) -> bool:
    """Whether the first list of layers holds any that were planned: what stands behind it is no use without."""
    main = base.stacks[0].layer_classes if base.stacks else ()
    return any(entry.plan.class_name in main for entry in entries)


def _of_parts(base: BasePlan, entries: Sequence[LayerEntry], doubts: Sequence[Diagnostic]) -> BasePlan:
    """A composite, without lists of its own in which no layer was planned, and with what its own layers have no place for.

    Which methods its parts have is known when a model is built.
    """
    known = {entry.plan.class_name for entry in entries}
    own = tuple(stack for stack in base.stacks if known & set(stack.layer_classes))
    lost = tuple((stack.path, ", ".join(stack.layer_classes)) for stack in base.stacks if stack not in own)
    base = replace(base, stacks=own, unreached=lost)
    classes = {name for stack in own for name in stack.layer_classes}
    methods = plan_methods(
        replace(base, models=()), [one for one in entries if one.plan.class_name in classes], doubts
    )
    lacks = tuple((one.method, one.reason) for one in methods if not one.supported) if own else ()
    return replace(base, lacks=lacks)


def _nothing_recognised(base: BasePlan) -> Diagnostic:
    """About the first list of layers: what stands behind it is no use without."""
    classes = ", ".join(base.stacks[0].layer_classes)
    return Problem.NOTHING_RECOGNISED.diagnostic(base.location, base=base.class_name, classes=classes)


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
