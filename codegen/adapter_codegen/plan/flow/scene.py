"""A flow together with the answers that recognisers ask of it again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import libcst as cst

from adapter_codegen.model import Expression
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import Layouts
from adapter_codegen.plan.flow.values import Consumers, Flow, Frame, Op, Value


@dataclass(frozen=True)
class Scene:
    facts: ModuleFacts
    flow: Flow
    kinds: Kinds

    @cached_property
    def consumers(self) -> Consumers:
        return Consumers(self.flow.values)

    @cached_property
    def layouts(self) -> Layouts:
        return Layouts(self.kinds)

    @cached_property
    def order(self) -> Mapping[int, int]:
        """``id(value)`` -> its place in the order of evaluation."""
        return {id(value): index for index, value in enumerate(self.flow.values)}

    def kind(self, value: Value) -> Kind:
        """What the module does that `value` is the result of; `WORK` where no module is known."""
        return self.kinds.of(value.module.classes) if value.module is not None else Kind.WORK

    def is_call_of(self, value: Value, *kinds: Kind) -> bool:
        """Whether `value` is the result of a submodule of one of these kinds."""
        return value.op is Op.SUBMODULE and value.module is not None and self.kind(value) in kinds

    def is_behind_super(self, frame: Frame) -> bool:
        """Whether a function runs that its class overrides: the copy that is edited is of the overriding one."""
        known = self.facts.classes.get(frame.class_name)
        return known is not None and known.functions[frame.function].owner != frame.owner

    def environment(self, value: Value) -> dict[str, Value]:
        """The names that are bound in front of the statement which computes `value`."""
        if value.statement is None:
            return {}
        return dict(self.flow.before.get((value.frame, value.statement), {}))

    def expression(self, node: cst.CSTNode) -> Expression:
        return Expression(self.facts.code(node), self.facts.location(node))
