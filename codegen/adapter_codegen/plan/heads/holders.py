"""Classes of upstream that hold the layers of a base model, but not the base model: T5ForConditionalGeneration has an encoder and a
decoder of its own where T5Model has them, BartForCausalLM a decoder in a wrapper, a backbone what the whole model has before its pooler.

They are base models too, with the same layers: what is planned of a base model is planned of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import libcst as cst

from adapter_codegen.model import BasePlan, Diagnostic, HolderPlan, Method, MethodSupport, StackPlan
from adapter_codegen.parse.automappings import AutoMappings, ModelEntry
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import assignment, dotted_name, literal_string, self_attribute, statements
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import LayerEntry
from adapter_codegen.plan.parts.models import is_model
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.stacks import HasAttention

_NO_TABLE = "The forward of {} does not show by which table it embeds tokens."
_PROMPT_BEFORE_HEAD = (
    "The head of {} reads hidden states in its own forward, where a prompt cannot be taken out of them."
)


def plan_holders(
    facts: ModuleFacts,
    mappings: AutoMappings,
    entry: ModelEntry,
    base: BasePlan,
    entries: Sequence[LayerEntry],
    is_layer: HasAttention,
    supported: Sequence[MethodSupport],
) -> tuple[HolderPlan, ...]:
    """Plan the classes of upstream's auto tables that hold layers of `base` themselves, and what such a class wraps them in.

    Args:
        entries: the layers of the base model.
        is_layer: whether a class is a layer where it stands in a list.
        supported: methods of the base model.
    """
    others = {name for names in mappings.bases.values() for name in names} - {base.class_name}
    found: dict[str, HolderPlan] = {}
    for candidates in _candidates(facts, entry, base):
        for name in candidates:
            # What is a base model of its own, or holds one, need not be planned to be none.
            if name in others or _holds_others(facts, facts.classes[name], facts.classes[base.class_name], others):
                continue
            plan, doubts = plan_base(facts, replace(entry, base_class=name), is_layer)
            if plan is not None and _is_alike(plan, base, entries):
                found[name] = _holder(facts, plan, doubts, base, entries, supported)
                break
    return tuple(found.values())


def _holder(
    facts: ModuleFacts,
    plan: BasePlan,
    doubts: Sequence[Diagnostic],
    base: BasePlan,
    entries: Sequence[LayerEntry],
    supported: Sequence[MethodSupport],
) -> HolderPlan:
    plan = replace(plan, stacks=tuple(_as_known(stack, base) for stack in plan.stacks))
    wanted = {name for stack in plan.stacks for name in stack.layer_classes}
    methods = plan_methods(plan, [layer for layer in entries if layer.plan.class_name in wanted], doubts)
    reasons = {one.method: one.reason for one in methods if not one.supported}
    if base.token_embeddings and not plan.token_embeddings:
        reasons |= dict.fromkeys((Method.PROMPT_TUNING, Method.INVERTIBLE), _NO_TABLE.format(plan.class_name))
    head = _beside(facts, facts.classes[plan.class_name], facts.classes[base.class_name])
    if head and not plan.is_encoder_decoder:  # there, the head reads what a decoder gives, which has no prompt
        reasons.setdefault(Method.PROMPT_TUNING, _PROMPT_BEFORE_HEAD.format(plan.class_name))
    lacks = tuple((one.method, reasons[one.method]) for one in supported if one.supported and one.method in reasons)
    return HolderPlan(plan, head, lacks)


def _as_known(stack: StackPlan, base: BasePlan) -> StackPlan:
    """As the base model has it, except for whether it is the main one: a class may hold one of two."""
    known = next(other for other in base.stacks if other.path == stack.path)
    return replace(known, is_main=stack.is_main)


def _candidates(facts: ModuleFacts, entry: ModelEntry, base: BasePlan) -> Iterator[tuple[str, ...]]:
    """Per class of a table that holds no model of the base class: the model that upstream calls its base model, and itself."""
    named = (name for names in entry.heads.values() for name in names if name in facts.classes)
    for name in dict.fromkeys(named):
        known = facts.classes[name]
        if name != base.class_name and not holds(facts, known, base.class_name):
            yield tuple(filter(None, (_base_model(facts, known), name)))


def _base_model(facts: ModuleFacts, known: ClassFacts) -> str:
    """The model at the attribute that ``base_model_prefix`` names; "" where there is none."""
    submodule = known.submodules.get(literal_string(known.attributes.get("base_model_prefix")) or "")
    classes = submodule.classes if submodule is not None and not submodule.in_list else ()
    return next((name for name in classes if is_model(facts, name)), "")


def holds(facts: ModuleFacts, known: ClassFacts, wanted: str, seen: tuple[str, ...] = ()) -> bool:
    """Whether a class holds a model of the class `wanted`, or of a class derived from it, itself or in a model that it holds."""
    for submodule in known.submodules.values():
        for name in submodule.classes:
            inner = facts.classes.get(name)
            if inner is None or name in seen:
                continue
            if wanted in inner.lineage or (is_model(facts, name) and holds(facts, inner, wanted, (*seen, name))):
                return True
    return False


def _is_alike(plan: BasePlan, base: BasePlan, entries: Sequence[LayerEntry]) -> bool:
    """Whether all layers of a class stand where the base model has such: an adapter of one fits the other."""
    known = {layer.plan.class_name for layer in entries}
    paths = {stack.path for stack in base.stacks}
    return bool(plan.stacks) and all(stack.path in paths and known & set(stack.layer_classes) for stack in plan.stacks)


def _holds_others(facts: ModuleFacts, known: ClassFacts, base: ClassFacts, others: Collection[str]) -> bool:
    """Whether a class holds a model that is generated by itself, or another one than the base model has at its place.

    Adapters would reach only a part of it, and nothing would say so.
    """
    for name, submodule in known.submodules.items():
        same = base.submodules[name].classes if name in base.submodules else ()
        if any(held in others or (is_whole_model(facts, held) and held not in same) for held in submodule.classes):
            return True
    return False


def is_whole_model(facts: ModuleFacts, name: str) -> bool:
    """Also one of another file, and one that an auto class makes."""
    is_elsewhere = name not in facts.classes and facts.origin(name).startswith("transformers.models.")
    return is_model(facts, name) or is_elsewhere


def _beside(facts: ModuleFacts, known: ClassFacts, base: ClassFacts) -> tuple[str, ...]:
    """Names of the modules and parameters that a class has and the base model has not."""
    mine, theirs = ({*one.submodules, *_parameters(facts, one)} for one in (known, base))
    return tuple(sorted(mine - theirs))


def _parameters(facts: ModuleFacts, known: ClassFacts) -> Iterator[str]:
    """Attributes that ``__init__`` sets to a parameter."""
    init = known.functions.get("__init__")
    for node in statements(init.node.body) if init else ():
        targets, value = assignment(node) or ((), None)
        if isinstance(value, cst.Call) and facts.origin(dotted_name(value.func)) == "torch.nn.Parameter":
            yield from filter(None, map(self_attribute, targets))
