"""The linear modules around attention cores and in feed-forward blocks, by data flow."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_codegen.model import AttentionKind, AttentionRoles
from adapter_codegen.plan.attention.cores import Meeting
from adapter_codegen.plan.attention.fused import fused_layout
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import flat_arguments
from adapter_codegen.plan.flow.values import Consumers, Flow, Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import (
    CASTS,
    DROPOUTS,
    VIEWS,
    called,
    is_of_nothing,
    last_name,
    one_step_back,
    sources,
    track,
)

_LINEAR = frozenset({Kind.LINEAR})
_CUTTING = ("view", "reshape", "unflatten")
_ACTIVATIONS = frozenset(
    [
        "gelu",
        "silu",
        "relu",
        "swish",
        "sigmoid",
        "tanh",
        "relu6",
        "softplus",
        "quick_gelu",
        "mish",
        "leaky_relu",
        "elu",
    ]
)


class Projections:
    """Answers for the cores and feed-forward blocks of one flow."""

    def __init__(self, flow: Flow, kinds: Kinds) -> None:
        self._flow = flow
        self._kinds = kinds
        self._consumers = Consumers(flow.values)

    # -- attention ---------------------------------------------------------------------------------------------------

    def roles(self, meeting: Meeting) -> AttentionRoles:
        kind = self.kind(meeting)
        query, key, value = (self._nearest(one) for one in (meeting.query, meeting.key, meeting.value))
        shared = [path for path in key if path in value]
        fused = [path for path in query if path in shared]
        core, output = meeting.path, self._output(meeting)
        head_dim = _width(meeting.key, self._kinds)
        value_head_dim = _width(meeting.value, self._kinds)
        fields = {"core": core, "kind": kind, "output": output, "head_dim": head_dim}
        if value_head_dim and value_head_dim != head_dim:
            fields["value_head_dim"] = value_head_dim
        if fused and kind is AttentionKind.SELF:
            three = (meeting.query, meeting.key, meeting.value)
            order = fused_layout(
                fused[0], three, self._kinds, bool(head_dim) and value_head_dim == head_dim, bool(output)
            )
            return AttentionRoles(**fields, fused=fused[0], fused_layout=order)  # type: ignore[arg-type]
        own = [path for path in query if path not in shared] or query
        return AttentionRoles(
            **fields,  # type: ignore[arg-type]
            query=own[0] if own else "",
            query_alternatives=self._alternatives(meeting.query, own),
            key=key[0] if key else "",
            value=value[0] if value else "",
        )

    def _alternatives(self, query: Value, paths: list[str]) -> tuple[str, ...]:
        """Of `paths`, those that stand in other branches than the first: a query comes out of one of them."""
        for one in track(query, self._kinds):
            if one.op is Op.JOIN:
                branches = [set(self._nearest(branch)) & set(paths) for branch in one.inputs if not branch.is_none]
                apart = sum(map(len, branches)) == len(set().union(*branches)) == len(paths)
                if len(paths) > 1 and apart and all(len(branch) == 1 for branch in branches):
                    return tuple(paths[1:])
        return ()

    def kind(self, meeting: Meeting) -> AttentionKind:
        """CROSS where the keys may come from another argument of the layer than the queries."""
        ours, theirs = self._stream_of(meeting.query), self._stream_of(meeting.key)
        return AttentionKind.CROSS if theirs - ours else AttentionKind.SELF

    def _stream_of(self, value: Value) -> set[str]:
        """Parameters of the layer that a query or key was projected from, through norms and sums with positions."""
        found: set[str] = set()
        for one in track(value, self._kinds):
            if one.op is Op.SUBMODULE and one.module is not None and self._kinds.of(one.module.classes) is Kind.LINEAR:
                found |= self._arguments(one.inputs[0]) if one.inputs else set()
        return found

    def _arguments(self, value: Value) -> set[str]:
        """The layer's own parameters at the end of the main path behind `value`."""
        found: set[str] = set()
        todo, seen = [value], set()
        while todo:
            one = todo.pop()
            if id(one) in seen or one.is_none:
                continue
            seen.add(id(one))
            if one.op is Op.PARAMETER and not one.frame.depth:
                found.add(one.name)
            elif one.through is not None and one.op is not Op.FUNCTION:
                todo.append(one.through)
            elif one.op in (Op.JOIN, Op.BINARY):
                todo.extend(one.inputs if one.op is Op.JOIN else _main_operand(one))
            elif one.op is Op.ITEM:  # what came back from a cache is what went in
                todo.extend(one_step_back(one, self._kinds))
            elif one.inputs and one.op in (Op.SUBMODULE, Op.METHOD, Op.FUNCTION):
                todo.append(one.inputs[0])
        return found

    def _nearest(self, value: Value) -> list[str]:
        """Paths of the linear modules that a tensor comes out of; one that feeds another of them is left out."""
        found = list(sources(value, self._kinds, _LINEAR))
        usable = [one for one in found if not is_of_nothing(one)]
        inner: set[int] = set()
        for one in usable:
            inner |= {key for source in one.inputs[:1] for key in ancestors(source)}
        return list(dict.fromkeys(one.path for one in usable if id(one) not in inner))

    def _output(self, meeting: Meeting) -> str:
        """Path of the first linear module that the attended values go into."""
        todo, seen = [meeting.result], set()
        while todo:
            value = todo.pop(0)
            for use in self._consumers.of(value):
                if id(use) in seen:
                    continue
                seen.add(id(use))
                kind = self._kinds.of(use.module.classes) if use.module is not None else Kind.WORK
                if use.op is Op.SUBMODULE and kind is Kind.LINEAR and use.inputs and use.inputs[0] is value:
                    return use.path
                if self._hands_on(use, value, kind):
                    todo.append(use)
        return ""

    def _hands_on(self, use: Value, value: Value, kind: Kind) -> bool:
        if use.op is Op.SUBMODULE:
            through = use.through is not None and use.through is value
            return through or kind in (Kind.DROPOUT, Kind.NORM, Kind.IDENTITY, Kind.SCALE)
        if use.op in (Op.METHOD, Op.FUNCTION):
            plain = last_name(use) in VIEWS | CASTS | DROPOUTS | {"cat", "matmul", "nan_to_num"}
            return (plain and bool(use.inputs) and use.inputs[0] is value) or use.through is value
        if use.is_sum:  # a residual addition: what follows is another sublayer
            return False
        return use.op in (Op.ITEM, Op.PARAMETER, Op.JOIN, Op.TUPLE, Op.HELPER, Op.BINARY)

    # -- feed-forward ------------------------------------------------------------------------------------------------

    def feed_forward(self, branch: Value, residual: Value) -> tuple[list[str], list[str], list[str]]:
        """Paths of the first, gate and last projections between `residual` and `branch`."""
        behind = ancestors(residual)
        last = [one for one in sources(branch, self._kinds, _LINEAR) if id(one) not in behind]
        first: list[Value] = []
        gate: list[Value] = []
        for one in last:
            carried, gating = self._into(one, behind)
            first += carried
            gate += gating
        last = [one for one in last if one not in first and one not in gate]
        return _paths(first), _paths(gate), _paths(last)

    def _into(self, last: Value, behind: dict[int, Value]) -> tuple[list[Value], list[Value]]:
        """The linear modules before `last`: those that carry the signal, and those that only open a gate."""
        value = self._plain(last.inputs[0]) if last.inputs else last
        if value.op is Op.BINARY and value.operator == "*":
            left, right = (self._linears(one, behind) for one in value.inputs)
            left_gates, right_gates = (self._is_activated(one, behind) for one in value.inputs)
            if left and right and left_gates != right_gates:
                carried, gating = (right, left) if left_gates else (left, right)
                return carried, [one for one in gating if one not in carried]
        return self._linears(value, behind), []

    def _plain(self, value: Value) -> Value:
        for _ in range(20):
            value = same_tensor(value)
            kind = self._kinds.of(value.module.classes) if value.module is not None else Kind.WORK
            step = value.op is Op.SUBMODULE and kind in (Kind.DROPOUT, Kind.NORM, Kind.IDENTITY)
            if value.op is Op.JOIN:  # cast or not
                ends = {id(one): one for one in map(self._plain, value.inputs)}
                return next(iter(ends.values())) if len(ends) == 1 else value
            if not value.inputs or not (step or called(value, *VIEWS, *CASTS, *DROPOUTS)):
                break
            value = value.inputs[0]
        return value

    def _linears(self, value: Value, behind: dict[int, Value]) -> list[Value]:
        """The nearest linear modules behind `value`."""
        found = ancestors(value, lambda one: id(one) in behind or self._is_linear(one))
        return [one for one in found.values() if self._is_linear(one) and id(one) not in behind]

    def _is_linear(self, value: Value) -> bool:
        return (
            value.op is Op.SUBMODULE
            and value.module is not None
            and self._kinds.of(value.module.classes) is Kind.LINEAR
        )

    def _is_activated(self, value: Value, behind: dict[int, Value]) -> bool:
        found = ancestors(value, lambda one: id(one) in behind or self._is_linear(one))
        return any(self._is_activation(one) for one in found.values())

    def _is_activation(self, value: Value) -> bool:
        if value.op is Op.SUBMODULE and value.module is not None:
            return self._kinds.of(value.module.classes) is Kind.ACTIVATION
        return value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in _ACTIVATIONS


def _main_operand(value: Value) -> list[Value]:
    """Of ``hidden_states + position_embeddings`` the first: what is normed and projected."""
    return list(value.inputs[:1])


def _paths(linears: Iterable[Value]) -> list[str]:
    return list(dict.fromkeys(one.path for one in linears if "*" not in one.path))


def _stated(size: Value) -> str:
    """``self.head_dim`` or ``self.config.head_dim``, as a path from the module; "" for anything else."""
    if size.op is not Op.ATTRIBUTE:
        return ""
    base = same_tensor(size.inputs[0])
    if base.op is Op.SELF:
        return size.name
    inner = _stated(base)
    return f"{inner}.{size.name}" if inner else ""


def _width(value: Value, kinds: Kinds) -> str:
    """The attribute that states the width of a head, where every view that cuts the channels up ends with it."""
    found: set[str] = set()
    for one in track(value, kinds):
        cuts = called(one, *_CUTTING) and not any(called(before, *_CUTTING) for before in track(one.inputs[0], kinds))
        if cuts:
            arguments = flat_arguments(one.inputs[1:])
            size = same_tensor(arguments[-1]) if len(arguments) > 1 else None
            if size is not None:
                found.add(_stated(size))
    return found.pop() if len(found) == 1 else ""
