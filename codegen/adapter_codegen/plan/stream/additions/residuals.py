"""Residual additions on the stream of a layer, and how each is normalised.

The stream is followed backwards, from what the layer returns to what it was given. An addition on it is a residual site if
one operand is an earlier value of the stream and the other came out of a submodule that read the stream after that value.
What looks alike and is not on the stream (position embeddings, masks, biases, sums of experts) is never met on this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Placement
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import How, Op, Value, alternatives, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import (
    CASTS,
    JOINING,
    VIEWS,
    first_argument,
    last_name,
    tensor_operands,
    worked_on,
)
from adapter_codegen.plan.stream.additions.gated import gated
from adapter_codegen.plan.stream.additions.handed_on import sums_in, terms
from adapter_codegen.plan.stream.additions.lifted import Lifted, lifted
from adapter_codegen.plan.stream.additions.mixed import mixed
from adapter_codegen.plan.stream.additions.norms import placement_of
from adapter_codegen.plan.stream.additions.pieces import are_same, is_same_piece, joined_streams, pieces
from adapter_codegen.plan.stream.additions.shortcuts import is_by_width, projected
from adapter_codegen.plan.stream.additions.shortened import shortened
from adapter_codegen.plan.stream.additions.work import STEPS, STREAM_CALLS, operand_nodes, work_behind


@dataclass(frozen=True, eq=False)
class Addition:
    """A residual addition in a flow."""

    value: Value
    branch: Value
    residual: Value
    branch_node: cst.BaseExpression
    residual_node: cst.BaseExpression | None  # None: there are several streams, and none of them is it
    work: Value  # the submodule call that the branch came out of
    placement: Placement
    norm: Value | None  # the call of the norm that the sum goes into


@dataclass(frozen=True, eq=False)
class InPart:
    """``x[mask] += f(x[mask])``: no host can stand here, and `f` is a sublayer all the same.

    Of other positions than those that it reads, it is none: Gemma 3n adds what it makes of one of several predictions to the others.
    """

    branch: Value
    residual: Value


@dataclass
class Residuals:
    """What was found on the stream, first addition first."""

    additions: list[Addition] = field(default_factory=list)
    in_part: list[InPart] = field(default_factory=list)  # additions to some positions, which are among these
    refused: list[Refused] = field(default_factory=list)  # additions that no rule claims
    ends: list[Value] = field(default_factory=list)  # where the way stopped short of what the layer is given


@dataclass(frozen=True, eq=False)
class Refused:
    """An addition on the stream without a rule."""

    value: Value
    problem: Problem


@dataclass(frozen=True, eq=False)
class Way:
    """A part of a forward that a stream runs through."""

    starts: tuple[Value, ...]
    ends: tuple[Value, ...]


def find_residuals(scene: Scene, way: Way | None = None) -> Residuals:
    """The residual additions on a stream: on the way through a layer, from what it is given to what it returns, or on another one."""
    found = Residuals()
    _Stream(scene, found, () if way is None else way.starts).follow(
        stream_outputs(scene) if way is None else [*way.ends]
    )
    found.additions.sort(key=lambda addition: scene.order[id(addition.value)])
    replaced = [addition.work.path for addition in found.additions]
    found.refused = [refused for refused in found.refused if not _is_within(refused.value.frame.path, replaced)]
    found.ends = [end for end in found.ends if not _is_within(end.path, replaced)]
    return found


def additions_beside(scene: Scene, found: Residuals) -> list[Addition]:
    """The residual additions on streams that a layer returns behind its own: of a layout, of a text beside the image."""
    beside = Residuals()
    _Stream(scene, beside).follow(_further_outputs(scene))
    known = {id(addition.value) for addition in found.additions} | {id(one.value) for one in found.refused}
    behind = {key for output in stream_outputs(scene) for key in ancestors(output)}
    return [
        one
        for one in beside.additions
        if id(one.value) not in known | behind and id(same_tensor(one.residual)) in ancestors(one.branch)
    ]


def unclaimed_sums(scene: Scene, found: Residuals) -> list[Addition]:
    """Where the stream is not followed to its start: sums before that, which would be residual additions if they were on it."""
    if not found.refused and not found.ends:
        return []
    aside = Residuals()
    stream = _Stream(scene, aside)
    behind = [value for output in stream_outputs(scene) for value in ancestors(output).values()]
    known = {id(addition.value) for addition in found.additions} | {id(one.value) for one in found.refused}
    stream.claim_each(value for value in behind if value.is_sum and id(value) not in known)
    return [one for one in aside.additions if id(same_tensor(one.residual)) in ancestors(one.branch)]


def _further_outputs(scene: Scene) -> list[Value]:
    """What a layer returns behind its hidden states, whichever of its alternatives is returned."""
    returned = [] if scene.flow.returned is None else list(alternatives(scene.flow.returned))
    return [output for one in returned if one.op is Op.TUPLE for output in one.inputs[1:]]


def _is_within(path: str, sublayers: Iterable[str]) -> bool:
    """Whether a path leads into a sublayer whose output is added elsewhere.

    Where that output takes the place of the stream, in some layers or for some configs, there is nothing to add to (SAM, Perceiver),
    and what is added inside of the sublayer is none of the stream's.
    """
    return any(f"{path}.".startswith(f"{sublayer}.") for sublayer in sublayers)


def stream_outputs(scene: Scene) -> list[Value]:
    """The tensors that may be the layer's hidden states: what is returned, or the first of several."""
    return [] if scene.flow.returned is None else _outputs(scene.flow.returned, scene)


def _outputs(returned: Value, scene: Scene) -> list[Value]:
    value = far_side(returned, scene)
    if value.op is Op.JOIN:
        return [output for choice in value.inputs for output in _outputs(choice, scene)]
    if value.op is Op.TUPLE and value.inputs:
        return _outputs(value.inputs[0], scene)
    if value.how is How.COMPREHENSION:
        return []
    return [value]


def far_side(value: Value, scene: Scene) -> Value:
    """`value` on the far side of calls, but of no norm: what one is made of inside is no part of the stream."""
    while value.through is not None and value.op is not Op.FUNCTION:
        if value.op is Op.SUBMODULE and scene.kind(value) in STEPS:
            break
        value = value.through
    return value


class _Stream:
    """Follows the stream backwards from its end, and claims the additions on it."""

    def __init__(self, scene: Scene, found: Residuals, starts: Iterable[Value] = ()) -> None:
        self._scene = scene
        self._found = found
        self._starts_at = {id(far_side(start, scene)) for start in starts}  # none: at what the layer is given
        self._seen: set[int] = set()

    def follow(self, values: list[Value]) -> None:
        todo = list(values)
        while todo:
            value = far_side(todo.pop(), self._scene)
            if id(value) in self._seen or value.is_none:
                continue
            self._seen.add(id(value))
            if id(value) in self._starts_at:
                continue
            before = self._addition(value) if value.is_sum else self._back(value)
            if not (before or value.is_sum or self._is_start(value)):
                self._found.ends.append(value)
            todo.extend(before)

    def claim_each(self, sums: Iterable[Value]) -> None:
        """Claim sums wherever they are, and follow none of them."""
        for value in sums:
            self._addition(value)

    def _is_start(self, value: Value) -> bool:
        """Whether a value is what the layer is given."""
        return value.op is Op.PARAMETER and value.frame is self._scene.flow.root and not self._starts_at

    def _back(self, value: Value) -> tuple[Value, ...]:
        """One step against the stream, where nothing is added."""
        if value.op is Op.JOIN:
            return self._choices(value)
        if value.op is Op.FUNCTION and value.through is not None:
            return self._lifted(value) or (value.through,)
        if parts := joined_streams(value):
            return pieces(value) or parts[:1]  # what is joined to the stream comes behind it
        if firsts := _first_of_joined(value):
            return firsts
        if value.op is Op.SUBMODULE and value.inputs:
            return value.inputs[:1] if self._scene.kind(value) in STEPS else ()
        if value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in STREAM_CALLS:
            return worked_on(value)
        if value.op is Op.BINARY and value.operator in "*/":
            return tensor_operands(value)[:1]
        if value.op is Op.ITEM:
            return value.inputs[:1]
        if value.how is How.ITEM_ASSIGNMENT and len(value.inputs) == 2:
            return self._written(*value.inputs)
        return ()

    def _choices(self, value: Value) -> tuple[Value, ...]:
        """The alternatives of a value. Beside the stream itself, a projection of it is followed to what it read."""
        starts = [projected(choice, self._scene) for choice in value.choices]
        kept = [same_tensor(choice) for choice, start in zip(value.choices, starts, strict=True) if start is None]
        return tuple(
            choice if start is None or not any(id(one) in ancestors(start) for one in kept) else start
            for choice, start in zip(value.choices, starts, strict=True)
        )

    def _written(self, before: Value, written: Value) -> tuple[Value, ...]:
        """``before[...] = written`` (or ``+=``)."""
        works = [operand for operand in written.inputs if written.is_sum and work_behind(operand, self._scene)]
        if works:
            self._refuse(written, Problem.ADDED_IN_PART)
        if works and any(_reads_where_added(works[-1], part) for part in written.inputs if part is not works[-1]):
            self._found.in_part.append(InPart(works[-1], before))
        return (before,)

    # -- additions ---------------------------------------------------------------------------------------------------

    def _addition(self, value: Value) -> tuple[Value, ...]:
        """Claim an addition and give the earlier value of the stream."""
        for residual, branch in (value.inputs, value.inputs[::-1]):
            if self._is_earlier(residual, branch):
                self._claim(value, residual, branch)
                return (residual, *self._narrower(branch))
        own = self._own_module(value)
        if own is not None:
            self._claim(value, *own)
            return (own[0],)
        goes_on = self._shortened(value) or self._mixed(value) or self._lifted(self._scene.flow.calls.get(value.frame))
        if not goes_on:
            self._refuse(value, Problem.NO_EARLIER_OPERAND)
        return goes_on

    def _shortened(self, value: Value) -> tuple[Value, ...]:
        """Claim an addition to a convolution of the stream, and give the stream in front of that; () where it is none."""
        for residual, branch in (value.inputs, value.inputs[::-1]):
            work = work_behind(branch, self._scene)
            start = shortened(residual, work, self._scene) if work is not None else None
            if start is not None:
                self._claim(value, residual, branch)
                return (start,)
        return ()

    def _narrower(self, branch: Value) -> tuple[Value, ...]:
        """The stream inside of a layer that is narrower there: the sum, and its norm, that the projection back to the whole width reads."""
        work = work_behind(branch, self._scene)
        read = first_argument(work) if work is not None and self._scene.is_call_of(work, Kind.LINEAR) else None
        inner = read
        while inner is not None and not inner.is_sum:
            inner = far_side(inner, self._scene)
            is_norm = self._scene.is_call_of(inner, Kind.NORM)
            inner = inner if inner.is_sum else inner.inputs[0] if is_norm and inner.inputs else None
        if read is None or inner is None:
            return ()
        pairs = (inner.inputs, inner.inputs[::-1])
        adds = any(self._is_earlier(start, other) and work_behind(other, self._scene) for start, other in pairs)
        return (read,) if adds else ()

    def _lifted(self, call: Value | None) -> tuple[Value, ...]:
        """Claim the addition that a function or module of upstream's makes, at its call; () where it makes none."""
        pairs = () if call is None else (*lifted(call, self._scene), *gated(call, self._scene))
        for pair in pairs:
            work = work_behind(pair.branch, self._scene)
            if call is None or work is None or not self._is_earlier(pair.residual, pair.branch):
                continue
            if sums_in(pair, call, self._scene):
                return self._handed_on(pair, call)
            nodes = pair.branch_node, pair.residual_node
            self._found.additions.append(
                Addition(call, pair.branch, pair.residual, *nodes, work, Placement.BRANCH, norm=None)
            )
            return (pair.residual,)
        return ()

    def _handed_on(self, pair: Lifted, call: Value) -> tuple[Value, ...]:
        """Claim both terms of a sum that a function is given in some models."""
        found = terms(pair, call, self._scene)
        works = [work_behind(term.branch, self._scene) for term in found or ()]
        if found is None or None in works or not all(self._is_earlier(term.residual, term.branch) for term in found):
            self._refuse(call, Problem.SUM_HANDED_ON)
            return ()
        for term, work in zip(found, works, strict=True):
            assert work is not None
            nodes = term.branch_node, pair.residual_node
            self._found.additions.append(
                Addition(term.value, term.branch, term.residual, *nodes, work, Placement.BRANCH, norm=None)
            )
        return (pair.residual,)

    def _mixed(self, value: Value) -> tuple[Value, ...]:
        """Claim a sum that spreads the output of a sublayer over several streams; () where it does not."""
        found = mixed(value, self._scene)
        work = work_behind(found.branch, self._scene) if found is not None else None
        if found is None or work is None:
            return ()
        self._found.additions.append(
            Addition(
                found.weighed,
                found.branch,
                found.connection,
                found.branch_node,
                None,
                work,
                Placement.BRANCH,
                norm=None,
            )
        )
        return (found.streams,)

    def _refuse(self, value: Value, problem: Problem) -> None:
        self._found.refused.append(Refused(value, problem))

    def _is_earlier(self, residual: Value, branch: Value) -> bool:
        """Whether every value that `residual` may be was read on the way to `branch`."""
        behind = ancestors(branch)
        starts = list(self._starts(residual))
        return bool(starts) and all(
            id(start) in behind or is_same_piece(start, behind.values()) or self._is_parallel(start, branch)
            for start in starts
        )

    def _is_parallel(self, value: Value, branch: Value) -> bool:
        """``r + a`` where another branch comes out of `r` as well: ``r + a + f``."""
        if not value.is_sum:
            return False
        pairs = (value.inputs, value.inputs[::-1])
        return any(self._is_earlier(start, other) and self._is_earlier(start, branch) for start, other in pairs)

    def _starts(self, residual: Value) -> Iterator[Value]:
        """The values of the stream that an operand is, without casts, scales and views."""
        value = far_side(residual, self._scene)
        if value.op is Op.JOIN:
            shortcuts = [projected(choice, self._scene) for choice in value.choices]
            beside = any(start is None for start in shortcuts)  # a projection counts only beside the stream itself
            for choice, start in zip(value.choices, shortcuts, strict=True):
                yield from self._starts(choice if start is None or not beside else start)
        elif value.op is Op.METHOD and last_name(value) in CASTS | VIEWS:
            yield from self._starts(value.inputs[0])
        elif parts := joined_streams(value):
            for part in parts:
                yield from self._starts(part)
        elif value.op is Op.BINARY and value.operator in "*/":
            tensors = tensor_operands(value)
            yield from self._starts(tensors[0]) if len(tensors) == 1 else iter((value,))
        else:
            yield value

    def _own_module(self, value: Value) -> tuple[Value, Value] | None:
        """In a root that is an own output module itself, the residual is a parameter that the branch never saw."""
        for residual, branch in (value.inputs, value.inputs[::-1]):
            start = same_tensor(residual)
            if start.op is Op.PARAMETER and not start.frame.depth and work_behind(branch, self._scene) is not None:
                return residual, branch
        return None

    def _claim(self, value: Value, residual: Value, branch: Value) -> None:
        if is_by_width(residual):
            self._refuse(value, Problem.ADDED_BY_WIDTH)
        work = work_behind(branch, self._scene)
        if work is None:
            self._refuse(value, Problem.NO_WORK_ADDED)
            return
        nodes = operand_nodes(value)
        if nodes is None:
            return
        left, right = nodes
        is_left = value.inputs[0] is residual
        placement, norm = placement_of(value, self._scene)
        addition = Addition(
            value=value,
            branch=branch,
            residual=residual,
            branch_node=right if is_left else left,
            residual_node=left if is_left else right,
            work=work,
            placement=placement,
            norm=norm,
        )
        self._found.additions.append(addition)


def _reads_where_added(branch: Value, part: Value) -> bool:
    """Whether a branch was made of the positions of the stream that it is added to, and `part` are those."""
    read = (value for value in ancestors(branch).values() if value.op is Op.ITEM)
    return part.op is Op.ITEM and any(
        _unwritten(value) is _unwritten(part) and are_same(value.inputs[1:], part.inputs[1:]) for value in read
    )


def _unwritten(item: Value) -> Value:
    """The tensor that an element is of, before any other of its elements was written."""
    value = same_tensor(item.inputs[0])
    while value.how is How.ITEM_ASSIGNMENT:
        value = same_tensor(value.inputs[0])
    return value


def _first_of_joined(value: Value) -> tuple[Value, ...]:
    """The first of what is joined in ``torch.cat(outputs[:2], dim=1)``, in each case of what a sublayer may return."""
    listed = value.inputs[0] if value.op is Op.FUNCTION and last_name(value) in JOINING and value.inputs else None
    if listed is None or listed.op is not Op.ITEM or not _is_from_first(listed.node):
        return ()
    choices = [choice for choice in alternatives(listed.inputs[0]) if choice.op is Op.TUPLE and choice.inputs]
    return tuple(choice.inputs[0] for choice in choices)


def _is_from_first(node: cst.CSTNode) -> bool:
    """``x[:2]``"""
    part = node.slice[0].slice if isinstance(node, cst.Subscript) and len(node.slice) == 1 else None
    return isinstance(part, cst.Slice) and part.lower is None and part.step is None
