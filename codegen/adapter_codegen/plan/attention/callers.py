"""Which arguments of a layer are one tensor, by the forwards that call it.

A layer may be given its stream several times: ``layer(hidden, hidden, hidden)`` is self-attention, whatever its arguments are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Frame, Op, Value, alternatives

Arguments = Mapping[str, Value]


class Callers:
    """Answers about the calls of one layer class in its file."""

    def __init__(self, facts: ModuleFacts, class_name: str) -> None:
        self._facts = facts
        self._class_name = class_name

    def give_no_other(self, names: Iterable[str], than: Iterable[str]) -> bool:
        """Whether each call gives, for the arguments `names`, nothing but tensors that it may give for one of `than`, too."""
        ours = tuple(than)
        return bool(self._calls) and all(_is_among(call, tuple(names), ours) for call in self._calls)

    @cached_property
    def _calls(self) -> list[Arguments]:
        """What each call of the layer gives, by the names of its arguments."""
        return [arguments for known in self._holders() for arguments in self._calls_in(known.name)]

    def _holders(self) -> Iterator[ClassFacts]:
        for known in self._facts.classes.values():
            held = {local_class(name) for submodule in known.submodules.values() for name in submodule.classes}
            if self._class_name in held:
                yield known

    def _calls_in(self, holder: str) -> list[Arguments]:
        try:
            flow = trace(self._facts, holder)
        except TooLarge:
            return [{}]  # of which nothing is known
        calls: dict[Frame, dict[str, Value]] = {}
        for value in flow.values if flow is not None else ():
            frame = value.frame
            if value.op is Op.PARAMETER and frame.depth and frame.class_name == self._class_name:
                if frame.function == "forward" and value.through is not None:
                    calls.setdefault(frame, {})[value.name] = value.through
        return list(calls.values())


def _is_among(call: Arguments, names: Iterable[str], ours: Iterable[str]) -> bool:
    known = {id(one) for name in ours if name in call for one in alternatives(call[name])}
    given = [{id(one) for one in alternatives(call[name])} if name in call else set() for name in names]
    return all(tensors and tensors <= known for tensors in given)
