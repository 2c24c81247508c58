"""The linear modules around an attention core, by data flow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from adapter_codegen.model import AttentionKind, AttentionRoles, OutputOrder
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.attention.fused import gates, orders, stated_size
from adapter_codegen.plan.attention.kinds.products import as_product, is_own_weight
from adapter_codegen.plan.attention.origins import Origins
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import flat_arguments, integer
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import How, Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import (
    CASTS,
    DROPOUTS,
    JOINING,
    VIEWS,
    called,
    is_cut,
    is_of_nothing,
    last_name,
    one_step_back,
    operand,
    sources,
    track,
)

_LINEAR = frozenset({Kind.LINEAR})
_CUTTING = ("view", "reshape", "unflatten")


def attention_roles(core: AttentionCore, scene: Scene, origins: Origins) -> AttentionRoles:
    """The projections around one core."""
    kind = origins.kind(core)
    if core.kind.projects:
        return AttentionRoles(core.path, kind)
    if not core.kind.has_keys:
        value = _paths(_nearest(core.value, scene))
        return AttentionRoles(core.path, kind, value=value[0] if value else "", output=_output(core, scene))
    query = _paths(sorted(_nearest(core.query, scene), key=lambda linear: not origins.is_of_stream(linear)))
    values = _nearest(core.value, scene)
    read = [origins.of_inputs(linear) for linear in values]
    key = _paths(sorted(_nearest(core.key, scene), key=lambda linear: origins.of_inputs(linear) not in read))
    value = _paths(values)
    shared = [path for path in key if path in value]
    fused = [path for path in query if path in shared]
    head_dim, value_head_dim = (_width(states, scene.kinds, not fused) for states in (core.key, core.value))
    roles = AttentionRoles(
        core=core.path,
        kind=kind,
        output=_output(core, scene),
        head_dim=head_dim,
        value_head_dim=value_head_dim if value_head_dim != head_dim else "",
    )
    if fused and kind is AttentionKind.SELF:
        parts = {"q": core.query, "k": core.key, "v": core.value}
        found = orders(fused[0], core.path, parts, scene)
        return replace(roles, fused=fused[0], orders=found, head_dim=head_dim or _width_in(found, core, scene))
    own = [path for path in query if path not in shared] or query
    others = _alternatives(core.query, own, scene)
    if not key and len(own) > 1 and not others:
        own = []  # one of those that make a query together may be that of the keys (ZAYA)
    if key and value and key[0] == value[0]:
        # Keys are as wide as queries, with which they are multiplied: what is put beside them does not show in their views.
        found = orders(key[0], core.path, {"k": core.key, "v": core.value}, scene, elsewhere=(core.query,))
        roles = replace(roles, orders=found, head_dim=head_dim or (_width(core.query, scene.kinds) if found else ""))
    roles = replace(
        roles,
        query=own[0] if own else "",
        query_alternatives=others,
        key=key[0] if key else "",
        value=value[0] if value else "",
        value_beside=_beside(core.value, value, scene) if value != key else (),
    )
    return _with_gates(roles, core, _projected(core, scene), scene, origins)


def _with_gates(
    roles: AttentionRoles, core: AttentionCore, projected: Value | None, scene: Scene, origins: Origins
) -> AttentionRoles:
    """With the projection of the queries as that of gates, if other outputs of it meet what is attended to."""
    found = None if projected is None else gates(roles.query, core, projected, scene, origins.is_attended)
    # Where no cut between both is seen, the whole of what it gives is queries, whatever else they meet (ConvBERT's convolution).
    return replace(roles, gate=roles.query, gate_orders=found) if found else roles


def _alternatives(query: Value, paths: list[str], scene: Scene) -> tuple[str, ...]:
    """Of `paths`, those that stand in other branches than the first: a query comes out of one of them."""
    for value in track(query, scene.kinds):
        if value.op is Op.JOIN:
            branches = [
                set(_paths(_nearest(branch, scene))) & set(paths) for branch in value.inputs if not branch.is_none
            ]
            apart = sum(map(len, branches)) == len(set().union(*branches)) == len(paths)
            if len(paths) > 1 and apart and all(len(branch) == 1 for branch in branches):
                return tuple(paths[1:])
    return ()


def _beside(value: Value, paths: list[str], scene: Scene) -> tuple[str, ...]:
    """Of `paths`, those behind the first, if the tensor is what all of them give, side by side: each gives one part of it (ZAYA)."""
    for step in track(value, scene.kinds):
        if called(step, *JOINING):
            parts = operand(step, 0, "tensors")
            axis = operand(step, 1, "dim")
            written = same_tensor(parts).inputs if parts is not None and same_tensor(parts).op is Op.TUPLE else ()
            given = [set(_paths(_nearest(part, scene))) for part in written]
            apart = all(len(one) == 1 for one in given) and len(set().union(*given)) == len(given) == len(paths)
            is_last = axis is not None and integer(axis) == -1
            return tuple(paths[1:]) if len(paths) > 1 and apart and is_last else ()
    return ()


# What a query, key or value was projected by ------------------------------------------------------------------------


def _nearest(value: Value, scene: Scene) -> list[Value]:
    """The linear modules that a tensor comes out of; one that feeds another of them is left out."""
    usable = [linear for linear in sources(value, scene.kinds, _LINEAR) if not is_of_nothing(linear)]
    inner: set[int] = set()
    for linear in usable:
        inner |= {key for source in linear.inputs[:1] for key in ancestors(source)}
    return [linear for linear in usable if id(linear) not in inner]


def _paths(linears: Iterable[Value]) -> list[str]:
    return list(dict.fromkeys(linear.path for linear in linears))


# What the attended values go into -------------------------------------------------------------------------------------


def _output(core: AttentionCore, scene: Scene) -> str:
    """Path of the first linear module that the attended values go into."""
    projected = _projected(core, scene)
    return "" if projected is None else projected.path


def _projected(core: AttentionCore, scene: Scene) -> Value | None:
    """What that module gives."""
    todo, seen = [core.result], set()
    while todo:
        value = todo.pop(0)
        for use in scene.consumers.of(value):
            if id(use) in seen:
                continue
            seen.add(id(use))
            if _is_projected_by_weight(use, value):
                return None
            if scene.is_call_of(use, Kind.LINEAR) and use.inputs and use.inputs[0] is value:
                return use
            if _joins_what_it_read(use, core):
                continue
            if _hands_on(use, value, scene) or _adds_up(use, core):
                todo.append(use)
    return None


def _is_projected_by_weight(use: Value, value: Value) -> bool:
    """``einsum("ibnd,hnd->ibh", attended, self.o)``: the projection is a parameter of the module, and no module."""
    product = as_product(use)
    operands = [] if product is None else [product.left, product.right]
    return any(one is value for one in operands) and any(map(is_own_weight, operands))


def _hands_on(use: Value, value: Value, scene: Scene) -> bool:
    """Whether the contents of `value` are those of `use`."""
    if use.op is Op.SUBMODULE:
        through = use.through is not None and use.through is value
        return through or scene.kind(use) in (Kind.DROPOUT, Kind.NORM, Kind.IDENTITY, Kind.SCALE)
    if use.op in (Op.METHOD, Op.FUNCTION):
        plain = last_name(use) in VIEWS | CASTS | DROPOUTS | {"cat", "matmul", "nan_to_num"}
        return (plain and bool(use.inputs) and use.inputs[0] is value) or use.through is value
    if use.is_sum:  # a residual addition: what follows is another sublayer
        return False
    if use.how is How.ITEM_ASSIGNMENT:
        return True
    return use.op in (Op.ITEM, Op.PARAMETER, Op.JOIN, Op.TUPLE, Op.HELPER, Op.BINARY)


def _adds_up(use: Value, core: AttentionCore) -> bool:
    """Whether all that is added up was attended to by the same scores: global tokens, and those of a window."""
    return use.is_sum and all(id(core.call) in ancestors(operand) for operand in use.inputs)


def _joins_what_it_read(use: Value, core: AttentionCore) -> bool:
    """``cat([states, attended], dim=-1)`` of what was attended to and what the attention read: what follows is a gate of both (D-FINE)."""
    parts = operand(use, 0, "tensors") if called(use, *JOINING) else None
    axis = operand(use, 1, "dim")
    if parts is None or axis is None or integer(axis) != -1:
        return False
    read = ancestors(core.call)
    written = same_tensor(parts).inputs if same_tensor(parts).op is Op.TUPLE else ()
    return any(part is not core.call and id(same_tensor(part)) in read for part in written)


# The width of a head --------------------------------------------------------------------------------------------------


def _width(value: Value, kinds: Kinds, is_alone: bool = False) -> str:
    """What states the width of a head, where every view that cuts the channels up ends with it.

    Args:
        is_alone: whether the projection gives nothing else, so that heads of a stated number are all of its outputs.
    """
    found: set[str] = set()
    for step in track(value, kinds):
        if _puts_heads_side_by_side(step, kinds):
            return ""
        if _cuts_channels(step, kinds):
            arguments = flat_arguments(step.inputs[1:])
            if len(arguments) > 1:
                found.add(stated_size(arguments[-1]) or (_share(arguments) if is_alone else ""))
    return found.pop() if len(found) == 1 else ""


def _cuts_channels(step: Value, kinds: Kinds) -> bool:
    """A view of what no view has cut before."""
    return called(step, *_CUTTING) and not any(called(before, *_CUTTING) for before in track(step.inputs[0], kinds))


def _share(arguments: Sequence[Value]) -> str:
    """``x.view(*x.shape[:-1], self.num_heads, -1)``: the outputs are cut into so many heads."""
    if len(arguments) < 3:
        return ""
    *leading, heads, width = arguments
    is_whole = len(leading) == (1 if leading and leading[0].op is Op.STARRED else 2)
    stated = stated_size(heads) if is_whole and integer(width) == -1 else ""
    return f"outputs // {stated}" if stated else ""


def _width_in(orders: Sequence[OutputOrder], core: AttentionCore, scene: Scene) -> str:
    """What states how many outputs of a group are keys, where groups are no more than heads with their keys."""
    sizes = {order.sizes[order.parts.index("k")] for order in orders if order.group}
    size = sizes.pop() if len(sizes) == len(orders) == 1 else ""
    is_attribute = all(map(str.isidentifier, size.split(".")))
    return size if is_attribute or _is_cut_into_heads(core.key, scene) else ""


def _is_cut_into_heads(key: Value, scene: Scene) -> bool:
    """Whether the outputs are only cut into heads and what each has: then a group is the outputs of one head."""
    cuts = [step for step in track(key, scene.kinds) if called(step, *_CUTTING)]
    shares = {_share(flat_arguments(cut.inputs[1:])) for cut in cuts}
    return len(shares) == 1 and "" not in shares and all(_cuts_channels(cut, scene.kinds) for cut in cuts)


def _puts_heads_side_by_side(step: Value, kinds: Kinds) -> bool:
    """``cat([content, position], dim=-1)`` of heads that are already cut: the key is wider than the attribute says.

    Parts of one head (those that turn by their position, and those that do not) are only put together again.
    """
    parts = operand(step, 0, "tensors") if called(step, *JOINING) else None
    axis = operand(step, 1, "dim")
    if parts is None or axis is None or integer(axis) != -1:
        return False
    written = same_tensor(parts).inputs if same_tensor(parts).op is Op.TUPLE else ()
    return len(written) > 1 and any(_is_whole_head(part, kinds) for part in written)


def _is_whole_head(value: Value, kinds: Kinds) -> bool:
    """Nothing is taken out of it since its channels were cut up."""
    back: tuple[Value, ...] = (value,)
    while back:
        value = back[0]
        if value.op is Op.ITEM or is_cut(value):
            return False
        if called(value, *_CUTTING):
            return True
        back = one_step_back(value, kinds)
    return False
