"""One function that runs: what its names are bound to, and the values that it makes.

The rules for statements, expressions and calls work on an `Activation`. They need one another (a call runs statements, a
statement evaluates expressions), so they meet here, as `Rules`, and none of their files imports the file of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.values import Flow, Frame, How, ModuleKind, Op, Value

MAX_DEPTH = 14
MAX_VALUES = 60_000  # a layer has some 500 to 5,000

Key = tuple[str, str, str, str]  # of a frame: class, owner, function, path


class TooLarge(Exception):
    """The graph has outgrown `MAX_VALUES`: the forward is no layer, or calls itself."""


@dataclass(frozen=True)
class Arguments:
    """Of one call, evaluated."""

    positional: tuple[Value, ...] = ()
    keywords: tuple[tuple[str, Value], ...] = ()
    double_star: tuple[Value, ...] = ()

    @property
    def named(self) -> tuple[tuple[str, Value], ...]:
        return (*self.keywords, *(("**", value) for value in self.double_star))


@dataclass(frozen=True)
class Rules:
    """How code is run."""

    evaluate: Callable[[Activation, cst.BaseExpression], Value]
    run: Callable[[Activation, Arguments], Value]  # binds the arguments, runs the body, gives what it returns


class Activation:
    """The state of one run; calls create further activations on the same flow."""

    def __init__(
        self,
        facts: ModuleFacts,
        flow: Flow,
        frame: Frame,
        function: cst.FunctionDef,
        module_classes: tuple[str, ...],
        rules: Rules,
        callers: tuple[Key, ...] = (),
    ) -> None:
        self.facts = facts
        self.flow = flow
        self.frame = frame
        self.function = function
        self.module_classes = module_classes  # that the module which runs the function may have
        self.statement: cst.CSTNode | None = None  # that is being run
        self.environment: dict[str, Value] | None = {}  # None behind a ``return`` or ``raise``
        self.results: list[Value] = []  # what the function returned so far
        self._rules = rules
        self._running = (*callers, _key(frame))

    def evaluate(self, node: cst.BaseExpression) -> Value:
        return self._rules.evaluate(self, node)

    def enter(
        self, function: cst.FunctionDef, frame: Frame, classes: tuple[str, ...], arguments: Arguments
    ) -> list[Value]:
        """What a function of the file returns; empty where it is running already."""
        if _key(frame) in self._running or frame.depth > MAX_DEPTH:
            return []
        inner = Activation(self.facts, self.flow, frame, function, classes, self._rules, self._running)
        return [self._rules.run(inner, arguments)]

    def make(
        self,
        op: Op,
        node: cst.CSTNode,
        inputs: Sequence[Value] = (),
        *,
        name: str = "",
        path: str = "",
        operator: str = "",
        index: str = "",
        literal: str = "",
        how: How | None = None,
        keywords: Sequence[tuple[str, Value]] = (),
        through: Value | None = None,
        module: ModuleKind | None = None,
    ) -> Value:
        """A new value of the flow. Raises `TooLarge` where that is one too many."""
        if len(self.flow.values) >= MAX_VALUES:
            raise TooLarge(f"{self.flow.root.class_name}.{self.flow.root.function}")
        value = Value(
            op,
            node,
            tuple(inputs),
            self.frame,
            self.statement,
            name,
            path,
            operator,
            index,
            literal,
            how,
            tuple(keywords),
            through,
            module,
        )
        self.flow.values.append(value)
        return value

    def constant(self, node: cst.CSTNode, literal: str) -> Value:
        return self.make(Op.CONSTANT, node, literal=literal)

    def other(self, node: cst.CSTNode, inputs: Sequence[Value] = (), how: How = How.UNKNOWN) -> Value:
        return self.make(Op.OTHER, node, inputs, how=how)

    def join(self, node: cst.CSTNode, values: Sequence[Value]) -> Value:
        """One of `values`, depending on a condition; at least one must be given."""
        distinct = list({id(value): value for value in values}.values())
        if len(distinct) == 1:
            return distinct[0]
        module = None
        if all(value.is_module for value in distinct):
            names = [name for value in distinct if value.module for name in value.module.classes]
            module = ModuleKind(tuple(dict.fromkeys(names)))
        return self.make(Op.JOIN, node, distinct, path=distinct[0].path if module else "", module=module)


def _key(frame: Frame) -> Key:
    return frame.class_name, frame.owner, frame.function, frame.path
