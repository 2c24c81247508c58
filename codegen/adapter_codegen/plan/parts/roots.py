"""Classes of upstream with a head that hold the models of a composite themselves, and not its base model: Blip2ForConditionalGeneration
has a vision model, a Q-Former and a language model of its own, CLIPForImageClassification a vision model.

They are planned as the base model is. What stands behind all of their layers and parts is their head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from adapter_codegen.model import BasePlan, Diagnostic, HolderPlan, MethodSupport
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import literal_string
from adapter_codegen.plan.methods import plan_methods
from adapter_codegen.plan.module import ModulePlan
from adapter_codegen.plan.parts.elsewhere import Elsewhere
from adapter_codegen.plan.parts.models import is_model
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.stacks import HasAttention


@dataclass(frozen=True)
class RootPlanner:
    """Plans the roots of one model type beside its base model.

    Args:
        planned: classes that have a plan already.
        supported: methods of the base model.
    """

    facts: ModuleFacts
    entry: ModelEntry
    base: BasePlan
    planned: Collection[str]
    found: ModulePlan
    is_layer: HasAttention
    elsewhere: Elsewhere
    supported: Sequence[MethodSupport]

    def plan(self) -> Iterator[HolderPlan]:
        named = (name for names in self.entry.heads.values() for name in names if name in self.facts.classes)
        for name in dict.fromkeys(named):
            known = self.facts.classes[name]
            if name in self.planned or self._has_base(known):
                continue
            entry = replace(self.entry, base_class=name, has_base=False)
            plan, doubts = plan_base(self.facts, entry, self.is_layer, self.elsewhere)
            if plan is not None and plan.submodels and (holder := self._holder(plan, doubts)) is not None:
                yield holder

    def _has_base(self, known: ClassFacts) -> bool:
        """Whether a class holds the base model, or a model where it looks for its own."""
        own = known.submodules.get(literal_string(known.attributes.get("base_model_prefix")) or "")
        if own is not None and any(is_model(self.facts, name) for name in own.classes):
            return True
        inner = (name for submodule in known.submodules.values() for name in submodule.classes)
        lineages = (self.facts.classes[name].lineage for name in inner if name in self.facts.classes)
        return any(self.base.class_name in lineage for lineage in lineages)

    def _holder(self, plan: BasePlan, doubts: Sequence[Diagnostic]) -> HolderPlan | None:
        """None where a list of its own has no layer that was planned."""
        layers = {name for stack in plan.stacks for name in stack.layer_classes}
        entries = [entry for entry in self.found.entries if entry.plan.class_name in layers]
        known = {entry.plan.class_name for entry in entries}
        if not all(known & set(stack.layer_classes) for stack in plan.stacks):
            return None
        reasons = {one.method: one.reason for one in plan_methods(plan, entries, doubts) if not one.supported}
        lacks = [
            (one.method, reasons[one.method]) for one in self.supported if one.supported and one.method in reasons
        ]
        return HolderPlan(plan, plan.head or (), tuple(lacks))
