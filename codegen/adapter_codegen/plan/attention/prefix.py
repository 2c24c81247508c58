"""Can prefix keys and values be put in front of an attention core, and with which arguments?

Longer keys are safe only where everything with a key dimension is known and grows too. The kind of the core claims its
arguments and what is added to its scores (`CoreKind.claims`); asked here is what holds for every kind: where the core
stands, the layout of keys and values, what happens to them before and after, and a name for the hidden states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Expression, Method, PrefixSite
from adapter_codegen.plan.attention.core import PREFIX, AttentionCore, Claims
from adapter_codegen.plan.attention.gate import gate_input
from adapter_codegen.plan.attention.lift import lifted
from adapter_codegen.plan.attention.text import is_in_comprehension, is_in_other_branch, is_read_behind
from adapter_codegen.plan.findings import Finding, behind_super
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.layout import is_flat_key_layout, is_key_layout
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, same_tensor
from adapter_codegen.plan.flow.walks import called, one_step_back, sources

_NAME = re.compile(r"\b[A-Za-z_]\w*")
_HANDED_ON = ("is_causal", "sliding_window")
_RESHAPING = ("view", "reshape", "permute", "transpose", "unfold", "flatten", "unflatten")
_READERS = (Op.TUPLE, Op.JOIN, Op.SUBMODULE, Op.HELPER, Op.CALL, Op.FUNCTION)


def plan_prefix(core: AttentionCore, scene: Scene) -> PrefixSite | list[Finding]:
    """The site, or all reasons why there is none."""
    if scene.is_behind_super(core.call.frame):
        return [behind_super(core.call, Method.PREFIX_TUNING)]
    core = _in_reach(core, scene)
    claims = core.kind.claims(core, scene)
    findings = list(_findings(core, claims, scene))
    if findings:
        return findings
    gate = gate_input(core, scene)
    return (
        [Finding(Problem.NO_GATE_INPUT, core.call.node, PREFIX)] if gate is None else _site(core, claims, gate, scene)
    )


def _in_reach(core: AttentionCore, scene: Scene) -> AttentionCore:
    """The core itself where it can be edited, else the call of the helper that holds it."""
    while not core.call.frame.class_name or gate_input(core, scene) is None:
        outer = lifted(core, scene.flow)
        if outer is None:
            break
        core = outer
    return core


# What speaks against it -----------------------------------------------------------------------------------------------


def _findings(core: AttentionCore, claims: Claims, scene: Scene) -> Iterator[Finding]:
    call = core.call
    if not call.frame.class_name or call.frame.owner not in scene.facts.classes:
        yield Finding(Problem.CORE_WITHOUT_CLASS, call.node, PREFIX)
    if not isinstance(call.statement, cst.SimpleStatementLine) or is_in_comprehension(call):
        yield Finding(Problem.CORE_NO_STATEMENT, call.node, PREFIX)
    if core.key is core.value:
        yield Finding(Problem.KEY_IS_VALUE, call.node, PREFIX)
    yield from claims.against  # first of these: what the text shows to be against it, whatever the rest turns out to be
    yield from _other_layouts(core, scene)
    yield from _windows(core, scene)
    yield from _mask_of_keys(core)
    if not core.kind.knows_scores or core.call is core.result:
        yield from (
            Finding(Problem.USED_AGAIN, use.node, PREFIX, {"name": name}) for name, use in _later_uses(core, scene)
        )


def _other_layouts(core: AttentionCore, scene: Scene) -> Iterator[Finding]:
    key, value = scene.layouts.of(core.key), scene.layouts.of(core.value)
    is_flat = core.kind.knows_scores and core.call is not core.result
    if is_flat and is_flat_key_layout(key) and is_flat_key_layout(value):
        return
    is_left_open = core.kind.has_fixed_layout
    if all(is_key_layout(layout) or (is_left_open and layout is None) for layout in (key, value)):
        return
    for name, layout in (("key", key), ("value", value)):
        if not is_key_layout(layout):
            found = "not shown by the text" if layout is None else f"({', '.join(layout)})"
            yield Finding(Problem.OTHER_LAYOUT, core.nodes[name], PREFIX, {"name": name, "found": found})


def _windows(core: AttentionCore, scene: Scene) -> Iterator[Finding]:
    """Hidden states that are cut up before the attention module sees them: its batch is one of windows."""
    for linear in sources(core.query, scene.kinds, frozenset({Kind.LINEAR})):
        value = linear.inputs[0] if linear.inputs else None
        while value is not None:
            reshaped = called(value, *_RESHAPING) or (value.op is Op.FUNCTION and value.through is not None)
            if reshaped and value.frame.path != core.path:
                yield Finding(Problem.WINDOWS, value.node, PREFIX)
                return
            back = () if value.is_sum else one_step_back(value, scene.kinds)
            value = back[0] if len(back) == 1 else None


def _mask_of_keys(core: AttentionCore) -> Iterator[Finding]:
    """A mask that upstream makes of these very keys or values (a gate for each of them) would have nothing for a prefix."""
    if core.mask is not None:
        yield from _made_of_keys(core, core.mask, core.nodes["mask"])
    for term in core.terms:
        if term.hides:
            yield from _made_of_keys(core, term.value, term.node)


def _made_of_keys(core: AttentionCore, mask: Value, node: cst.CSTNode) -> Iterator[Finding]:
    seen: set[int] = set()
    ahead = [mask]
    while ahead:
        value = ahead.pop()
        if id(value) not in seen:
            seen.add(id(value))
            ahead += value.origins()
    for name, attended in (("keys", core.key), ("values", core.value)):
        if id(same_tensor(attended)) in seen:
            yield Finding(Problem.MASK_OF_KEYS, node, PREFIX, {"name": name})


def _later_uses(core: AttentionCore, scene: Scene) -> Iterator[tuple[str, Value]]:
    """Keys and values that are used after the core: under their name it would be with their prefix."""
    own = {id(core.call), id(core.result)}
    for name, value in (("key", core.key), ("value", core.value)):
        for use in scene.consumers.of(value):
            is_later = scene.order[id(use)] > scene.order[id(core.call)]
            is_read = use.op in _READERS and id(use) not in own
            if is_later and is_read and not _is_elsewhere(core.call, use, scene):
                yield name, use


def _is_elsewhere(call: Value, use: Value, scene: Scene) -> bool:
    """Whether a use stands in another branch than the core, so that only one of them runs."""
    frame = call.frame
    if use.frame is not frame or not frame.class_name or call.statement is None or use.statement is None:
        return False
    function = scene.facts.classes[frame.class_name].functions[frame.function].node
    return is_in_other_branch(scene.facts, function, call.statement, use.statement)


# The site -------------------------------------------------------------------------------------------------------------


def _site(core: AttentionCore, claims: Claims, gate: str, scene: Scene) -> PrefixSite:
    call, mask = core.call, claims.mask
    assert call.statement is not None
    location = scene.facts.location(call.node)
    grown = [expression.code for expression in (*claims.biases, *([mask] if mask else []))]
    scores = scene.expression(core.nodes["scores"]) if "scores" in core.nodes and mask is None else None
    keywords = (*_keywords(core, scene), *(["takes_mask=False"] if mask is None and scores is None else []))
    statement = _padding(core, (gate, *grown, *keywords), scene) or call.statement
    return PrefixSite(
        class_name=call.frame.class_name,
        function=call.frame.function,
        core=core.kind.name,
        location=location,
        statement=scene.facts.location(statement),
        query=scene.expression(core.nodes["query"]),
        key=scene.expression(core.nodes["key"]),
        value=scene.expression(core.nodes["value"]),
        mask=mask,
        gate_input=Expression(gate, location),
        biases=claims.biases,
        late=claims.late,
        scores=scores,
        keywords=keywords,
        kept=(*(name for name in grown if _is_read_later(name, core, scene)), *_kept(core, claims, scene)),
    )


def _kept(core: AttentionCore, claims: Claims, scene: Scene) -> Iterator[str]:
    """Names of keys and values that others read as they are: also what is made ready, after the core, to meet the scores."""
    used = {name for name, _ in _later_uses(core, scene)}
    for name in ("key", "value"):
        if claims.late or name in used:
            yield scene.facts.code(core.nodes[name])


def _padding(core: AttentionCore, read: tuple[str, ...], scene: Scene) -> cst.If | None:
    """Where keys and values are only padded to more channels: a prefix, which has as many as before, goes in ahead of it.

    Args:
        read: what the edit reads beside queries, keys and values; all of it must be the same there.
    """
    branch, frame = core.key.node, core.call.frame
    if not isinstance(branch, cst.If) or core.value.node is not branch or core.call.statement is None:
        return None
    ahead, here = (scene.flow.before.get((frame, one), {}) for one in (branch, core.call.statement))
    code = {name: scene.facts.code(core.nodes[name]) for name in ("query", "key", "value")}
    if not all(_only_pads(getattr(core, name), ahead.get(code[name])) for name in ("key", "value")):
        return None
    names = {name for text in read for name in _NAME.findall(text)} & here.keys()
    return branch if code["query"] in ahead and all(ahead.get(name) is here[name] for name in names) else None


def _only_pads(joined: Value, before: Value | None) -> bool:
    """Whether a tensor is what it was before a branch, or that with further channels: ``pad(x, (0, n))``."""
    if before is None or joined.op is not Op.JOIN:
        return False
    others = [value for value in joined.choices if value is not before]
    return bool(others) and all(_pads_channels(value, before) for value in others)


def _pads_channels(value: Value, before: Value) -> bool:
    if value.op is not Op.FUNCTION or not value.name.endswith(".pad") or len(value.inputs) != 2:
        return False
    padded, by = value.inputs
    return padded is before and by.op is Op.TUPLE and len(by.inputs) == 2


def _keywords(core: AttentionCore, scene: Scene) -> Iterator[str]:
    """What the core is told about causality and windows is told to the prefix too; and what its kind is known to do."""
    if "is_causal" not in core.nodes and not core.kind.may_hide_keys:
        yield "is_causal=False"
    for name in _HANDED_ON:
        if name in core.nodes:
            yield f"{name}={scene.facts.code(core.nodes[name])}"
    if isinstance(core.call.node, cst.Call):
        for argument in core.call.node.args:
            if argument.star == "**":
                yield f"**{scene.facts.code(argument.value)}"


def _is_read_later(name: str, core: AttentionCore, scene: Scene) -> bool:
    """Whether the text reads a name again after the core's last statement, in the same function."""
    frame = core.call.frame
    function = scene.facts.classes[frame.class_name].functions[frame.function].node
    return is_read_behind(scene.facts, function, name, core.result.statement)
