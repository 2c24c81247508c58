"""Which arguments of a layer queries and keys were projected from, and what that says about an attention.

A key may come from one of several tensors (``encoder_hidden_states if is_cross else hidden_states``) or from several at once
(global tokens in front of the others). So the answer is a set of *ways*, each a set of arguments. Where one of the ways has
nothing in common with the query, the attention is cross-attention, unless the callers of the layer give it the same tensors under
both names (``layer(query=hidden, key=hidden)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, reduce

import libcst as cst

from adapter_codegen.model import AttentionKind
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import is_none
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.attention.text import may_be_skipped, required_names
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Frame, How, Op, Value, alternatives, ancestors
from adapter_codegen.plan.flow.walks import GATHERING, called, one_step_back, operand, sources, tensor_operands

Way = frozenset[str]
Ways = frozenset[Way]
Arguments = Mapping[str, Value]  # of a call, by name

_NOTHING: Ways = frozenset({frozenset()})
_LINEAR = frozenset({Kind.LINEAR})


class Origins:
    """Answers for the attention cores of one layer, remembered."""

    def __init__(self, scene: Scene, attended: Iterable[Value]) -> None:
        self._scene = scene
        self._attended = set(map(id, attended))  # another attention's values are no part of the stream
        self._known: dict[tuple[int, bool], Ways] = {}
        self._callers = Callers(scene.facts, scene.flow.root.class_name)

    # -- questions ---------------------------------------------------------------------------------------------------

    def is_attended(self, value: Value) -> bool:
        """Whether a value is what an attention of the layer gives."""
        return id(value) in self._attended

    def kind(self, core: AttentionCore) -> AttentionKind:
        """CROSS where the keys may come from other arguments of the layer than the queries."""
        if core.kind.projects:
            return self.kind_of_torch(core.call)
        # Without keys there are none out of a cache either: values may be sampled as they are (D-FINE).
        ways = self._together([core.key, *core.further_keys], not core.kind.has_keys)
        return self._kind(self._of_query(core), ways, self._scene.flow.calls.get(core.call.frame))

    def kind_of_torch(self, call: Value) -> AttentionKind:
        """The same of a call of torch's attention, which projects what it is given."""
        query, key = operand(call, 0, "query"), operand(call, 1, "key")
        if query is None or key is None:
            return AttentionKind.SELF
        return self._kind(frozenset().union(*self._of(query, True)), self._of(key, True), call)

    def asks_for_stream(self, core: AttentionCore) -> bool:
        """Whether the queries come from the layer's first argument."""
        return self._first_parameter in self._of_query(core)

    def is_of_stream(self, projected: Value) -> bool:
        """Whether the input of a projection comes from the layer's first argument: the hidden states."""
        return any(self._first_parameter in way for way in self.of_inputs(projected))

    def of_inputs(self, projected: Value) -> Ways:
        """The ways to what a projection reads."""
        return self._of(projected.inputs[0], True) if projected.inputs else _NOTHING

    def _kind(self, ours: Way, ways: Ways, call: Value | None) -> AttentionKind:
        """By the ways to the keys, and the call of the attention: None where it is written out in the layer."""
        known = {way for way in ways if way}
        foreign = [way for way in known if not way & ours and not self._callers.give_no_other(way, ours)]
        if not foreign or (len(foreign) < len(known) and self._runs_without(foreign, call)):
            return AttentionKind.SELF
        return AttentionKind.CROSS

    # -- the walk ----------------------------------------------------------------------------------------------------

    def _of_query(self, core: AttentionCore) -> Way:
        """All arguments behind a query. A projection that gives the keys too tells of a query only if there is no other."""
        query, key = (list(sources(value, self._scene.kinds, _LINEAR)) for value in (core.query, core.key))
        shared = {linear.path for linear in key}
        own = [linear for linear in query if linear.path not in shared] or query
        found = frozenset().union(*(way for linear in own for way in self.of_inputs(linear)))
        if found:
            return found
        behind = ancestors(
            core.query, lambda value: id(value) in self._attended
        ).values()  # of no projection that is known
        return frozenset(value.name for value in behind if value.op is Op.PARAMETER and not value.frame.depth)

    def _of(self, value: Value, projected: bool) -> Ways:
        """The ways back from `value`. Only what went through a projection counts: a key out of a cache does not."""
        if (id(value), projected) not in self._known:
            self._known[id(value), projected] = _NOTHING
            self._known[id(value), projected] = self._find(value, projected)
        return self._known[id(value), projected]

    def _find(self, value: Value, projected: bool) -> Ways:
        if value.is_none or id(value) in self._attended or _is_shared_state(value):
            return _NOTHING
        if value.op is Op.PARAMETER and not value.frame.depth:
            return frozenset({frozenset({value.name} if projected else ())})
        if value.op is Op.JOIN or called(value, "where"):
            choices = value.choices if value.op is Op.JOIN else value.inputs[-2:]
            return frozenset().union(*(self._of(choice, projected) for choice in choices)) or _NOTHING
        if self._scene.is_call_of(value, Kind.LINEAR):
            return self.of_inputs(value)
        if value.is_sum:  # of ``hidden_states + position_embeddings`` the first: what is normed and projected
            return self._first_with_origin(value.inputs, projected)
        return self._together(self._back(value), projected)

    def _back(self, value: Value) -> Sequence[Value]:
        """What `value` is made of, all of it at once."""
        if called(value, *GATHERING) or value.op is Op.ITEM:
            return one_step_back(value, self._scene.kinds)
        if value.through is not None and value.op is not Op.FUNCTION:
            return (value.through,)
        if value.how in (How.ITEM_ASSIGNMENT, How.COMPREHENSION) or called(value, "matmul", "bmm"):
            return value.inputs
        if called(value, "einsum"):
            return value.inputs[1:]
        if value.op is Op.BINARY:
            return value.inputs if value.operator == "@" else tensor_operands(value)[:1]
        return value.inputs[:1] if value.op in (Op.SUBMODULE, Op.METHOD, Op.FUNCTION) else ()

    def _first_with_origin(self, values: Iterable[Value], projected: bool) -> Ways:
        ways = (self._of(value, projected) for value in values)
        return next((found for found in ways if found != _NOTHING), _NOTHING)

    def _together(self, values: Iterable[Value], projected: bool) -> Ways:
        parts = [self._of(value, projected) for value in values]
        return reduce(lambda left, right: frozenset(a | b for a in left for b in right), parts, _NOTHING)

    # -- what the layer is called with -------------------------------------------------------------------------------

    def _parameters(self) -> Iterator[Value]:
        return (value for value in self._scene.flow.values if value.op is Op.PARAMETER and not value.frame.depth)

    @cached_property
    def _first_parameter(self) -> str:
        return next((value.name for value in self._parameters()), "")

    def _runs_without(self, foreign: Iterable[Way], call: Value | None) -> bool:
        """Whether the attention runs too where the other arguments are None: then it is of the stream to itself."""
        optional = {
            value.name
            for value in self._parameters()
            if isinstance(value.node, cst.Param) and is_none(value.node.default)
        }
        optional -= required_names(self._scene)
        return frozenset().union(*foreign) <= optional and not may_be_skipped(self._scene, call)


def _is_shared_state(value: Value) -> bool:
    """``shared_kv_states["full"]``: an entry of a dictionary that layers hand on, and no tensor of this layer."""
    if value.op is not Op.ITEM or value.inputs[0].op is not Op.PARAMETER:
        return False
    if len(value.inputs) < 2:
        return value.index[:1] in ("'", '"') and bool(value.index)
    keys = list(alternatives(value.inputs[1]))
    return bool(keys) and all(key.op is Op.CONSTANT and key.literal[:1] in ("'", '"') for key in keys)


class Callers:
    """Which arguments of a layer are one tensor, by the forwards that call it: ``layer(hidden, hidden, hidden)``."""

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
