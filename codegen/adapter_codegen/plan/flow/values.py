"""The graph that a forward computes, as far as its text tells: who made each value, and from what.

`tracer.trace` builds the graph; recognisers ask the questions at the end of this file. A value knows its origin only, so
questions about uses go through `Consumers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

import libcst as cst


class Op(str, Enum):
    """How a value comes about, and which fields of `Value` say more about it."""

    PARAMETER = "parameter"  # of a function: `name` ("*args", "**kwargs"); `through` = the argument, if the call is in the graph
    SELF = "self"  # `path`
    MODULE = "module"  # a submodule itself: `path`
    SUBMODULE = "submodule call"  # `path`; inputs = arguments; `through` = what its forward returned, if known
    HELPER = "method of the same class"  # `name`; inputs = arguments; `through` = what it returned
    FUNCTION = "function"  # `name` as written ("nn.functional.softmax"); `through` = what it returned, if it is known
    METHOD = "method"  # of a tensor or unknown object: inputs[0].name(inputs[1:])
    CALL = "call of a computed callable"  # inputs[0](inputs[1:])
    INTERFACE = "attention interface"  # a function out of ALL_ATTENTION_FUNCTIONS
    ATTRIBUTE = "attribute"  # inputs[0].name
    ITEM = "item"  # inputs[0][inputs[1]]; `index`, where it is a literal; `through` = the element, if known
    TUPLE = "tuple"
    STARRED = "starred"  # *inputs[0]
    BINARY = "operation"  # inputs[0] `operator` inputs[1]; an augmented assignment too
    UNARY = "unary"  # `operator` inputs[0]
    JOIN = "join"  # one of the inputs, depending on a condition; `path` of the first, where all are modules
    GLOBAL = "global name"  # `name`
    CONSTANT = "constant"  # `literal`
    OTHER = "other"  # made of the inputs as `how` says, which no rule looks into


class How(str, Enum):
    """What a value of `Op.OTHER` is."""

    UNKNOWN = "unknown"
    SLICE = "slice"
    COMPARISON = "comparison"
    COMPREHENSION = "comprehension"
    FILTERED = "filtered"  # those of the inputs that fulfil a condition, as they are: ``[x for x in (a, b) if ...]``
    ITEM_ASSIGNMENT = "item assignment"
    NESTED_FUNCTION = "nested function"
    COUNTER = "counter"  # of ``enumerate``


METADATA = frozenset({"dtype", "device", "shape", "ndim"})  # attributes that say nothing about a tensor's contents


@dataclass(frozen=True, eq=False)
class Frame:
    """One activation of a function: which module runs it. Two calls of one function have two frames."""

    class_name: str  # class of the module; "" for a function of the module's file
    function: str
    owner: str  # class whose text holds the function
    path: str  # of the module, from the traced class; "" = the traced class itself
    depth: int


@dataclass(frozen=True)
class ModuleKind:
    """What is known about a submodule at a point of the forward."""

    classes: tuple[str, ...]  # that it may have, as written; of the elements, if it is a list
    is_list: bool = False
    places: tuple[tuple[str, ...], ...] = ()  # of a list written out element by element: the classes of each element


@dataclass(frozen=True, eq=False)
class Value:
    """The result of one expression. Which of the fields below `statement` are given depends on `op`: see there."""

    op: Op
    node: cst.CSTNode
    inputs: tuple[Value, ...]
    frame: Frame
    statement: cst.CSTNode | None  # the innermost statement that computes it
    name: str = ""  # of a parameter, attribute, method, function or global
    path: str = ""  # of a module, from the traced class
    operator: str = ""  # "+", "@", ... as written; "?" for one that no rule asks for
    index: str = ""  # "0", "-1", "'key'", as written; "" where it is no literal
    literal: str = ""  # as written
    how: How | None = None
    keywords: tuple[tuple[str, Value], ...] = ()  # arguments by keyword; "**" for a double star
    through: Value | None = None  # the same tensor, seen on the other side of a call
    module: ModuleKind | None = None  # SUBMODULE: of the callee; else the value itself is a module

    def keyword(self, name: str) -> Value | None:
        return next((value for key, value in self.keywords if key == name), None)

    @property
    def is_module(self) -> bool:
        return self.module is not None and self.op is not Op.SUBMODULE

    @property
    def is_none(self) -> bool:
        return self.op is Op.CONSTANT and self.literal == "None"

    @property
    def choices(self) -> tuple[Value, ...]:
        """Of a join: what the value may be, if it is anything."""
        return tuple(value for value in self.inputs if not value.is_none)

    @property
    def is_sum(self) -> bool:
        return self.op is Op.BINARY and self.operator == "+"

    @property
    def is_metadata(self) -> bool:
        """``x.shape`` and the like."""
        return self.op is Op.ATTRIBUTE and self.name in METADATA

    def origins(self) -> tuple[Value, ...]:
        """All that the contents of this value were computed from, one step back: nothing behind ``x.dtype``."""
        if self.is_metadata:
            return ()
        if self.op is Op.ITEM and self.through is not None:  # the other elements are no part of it
            return (self.through,)
        ahead = () if self.through is None else (self.through,)
        return (*ahead, *self.inputs, *(value for _, value in self.keywords))


Environment = Mapping[str, Value]


@dataclass(frozen=True, eq=False)
class Loop:
    """A ``for`` whose body was run once."""

    frame: Frame
    node: cst.For
    before: Environment  # bound names ahead of it
    entered: Environment  # at the start of its body
    after: Environment  # at the end of its body


@dataclass
class Flow:
    """The graph of one forward, with the forwards that it calls."""

    root: Frame
    values: list[Value] = field(default_factory=list)  # in order of evaluation
    returned: Value | None = None
    before: dict[tuple[Frame, cst.CSTNode], Environment] = field(default_factory=dict)  # bound names at a statement
    calls: dict[Frame, Value] = field(default_factory=dict)  # the call that a frame is the activation of
    loops: list[Loop] = field(default_factory=list)
    after: dict[tuple[Frame, cst.CSTNode], cst.CSTNode] = field(default_factory=dict)  # next statement in the block


def same_tensor(value: Value) -> Value:
    """`value` on the far side of calls, parameters and tuple elements."""
    while value.through is not None and value.op is not Op.FUNCTION:
        value = value.through
    return value


def argument_behind(value: Value) -> Value:
    """`value` behind parameters that got one argument for certain."""
    while value.op is Op.PARAMETER and value.through is not None and len(value.inputs) == 1:
        value = value.through
    return value


def truth(value: Value) -> bool | None:
    """Whether a condition holds, where the text decides it."""
    known = argument_behind(value)
    if known.op is not Op.CONSTANT or known.literal not in ("True", "False", "None"):
        return None
    return known.literal == "True"


def alternatives(value: Value, enter: Callable[[Value], bool] = lambda _: True) -> Iterator[Value]:
    """The values that `value` may be, without joins and without None."""
    todo, seen = [value], set()
    while todo:
        value = same_tensor(todo.pop())
        if id(value) in seen or value.is_none:
            continue
        seen.add(id(value))
        if value.op is Op.JOIN and enter(value):
            todo.extend(reversed(value.inputs))
        else:
            yield value


def ancestors(value: Value, stop: Callable[[Value], bool] = lambda _: False) -> dict[int, Value]:
    """`value` and all that it was computed from; nothing behind a value at which `stop` holds."""
    found: dict[int, Value] = {}
    todo = [value]
    while todo:
        value = todo.pop()
        if id(value) in found:
            continue
        found[id(value)] = value
        if not stop(value):
            todo.extend(value.origins())
    return found


class Consumers:
    """Who uses a value."""

    def __init__(self, values: Iterable[Value]) -> None:
        self._uses: dict[int, list[Value]] = {}
        for value in values:
            for origin in {id(origin): origin for origin in value.origins()}.values():
                self._uses.setdefault(id(origin), []).append(value)

    def of(self, value: Value) -> list[Value]:
        return self._uses.get(id(value), [])
