"""Can prefix keys and values be put in front of an attention core, and with which arguments?

Longer keys are safe only where everything with a key dimension is known and grows too. So each argument of the core, each
thing added to its scores, and each later use of the keys must be claimed by a rule; what no rule claims refuses the core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Core, Expression, Method, PrefixSite
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.attention.cores import Meeting, is_plain_transposition
from adapter_codegen.plan.attention.eager import added_to_scores
from adapter_codegen.plan.attention.lift import lifted
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import Layouts, is_key_layout
from adapter_codegen.plan.flow.values import Consumers, Flow, Op, Value, alternatives, same_tensor
from adapter_codegen.plan.flow.walks import called, is_scalar, one_step_back, sources

PREFIX = (Method.PREFIX_TUNING,)

# Arguments of interface calls that say nothing about single keys.
_SAFE = frozenset(
    {
        *("module", "query", "key", "value", "attention_mask", "mask", "dropout", "scaling", "is_causal", "softcap"),
        *(
            "sliding_window",
            "output_attentions",
            "position_ids",
            "deterministic",
            "use_cache",
            "layer_idx",
            "training",
        ),
        *("head_mask", "attn_mask", "dropout_p", "scale", "enable_gqa"),
    }
)
_PER_HEAD = frozenset({"s_aux", "sinks"})  # one logit per head, behind all keys
_HANDED_ON = ("is_causal", "sliding_window")
_RESHAPING = ("view", "reshape", "permute", "transpose", "unfold", "flatten", "unflatten")
_PACKED = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "cu_seqlens"})


class PrefixPlanner:
    """Plans the prefix of all cores in one flow."""

    def __init__(self, facts: ModuleFacts, flow: Flow, kinds: Kinds, layouts: Layouts) -> None:
        self._facts = facts
        self._flow = flow
        self._kinds = kinds
        self._layouts = layouts
        self._consumers = Consumers(flow.values)
        self._order = {id(value): index for index, value in enumerate(flow.values)}

    def plan(self, meeting: Meeting) -> PrefixSite | list[Finding]:
        """The site, or all reasons why there is none."""
        meeting = self._in_reach(meeting)
        findings = list(self._findings(meeting))
        gate = None if findings else self._gate_input(meeting)
        if not findings and gate is None:
            findings.append(Finding(Problem.NO_GATE_INPUT, meeting.call.node, PREFIX))
        if findings or gate is None:
            return findings
        return self._site(meeting, gate)

    def _in_reach(self, meeting: Meeting) -> Meeting:
        """The core itself where it can be edited, else the call of the helper that holds it."""
        while not meeting.call.frame.class_name or self._gate_input(meeting) is None:
            outer = lifted(meeting, self._flow)
            if outer is None:
                break
            meeting = outer
        return meeting

    # -- what speaks against it --------------------------------------------------------------------------------------

    def _findings(self, meeting: Meeting) -> Iterator[Finding]:
        call = meeting.call
        if not call.frame.class_name or call.frame.owner not in self._facts.classes:
            yield Finding(Problem.CORE_WITHOUT_CLASS, call.node, PREFIX)
        if not isinstance(call.statement, cst.SimpleStatementLine) or _in_comprehension(call):
            yield Finding(Problem.CORE_NO_STATEMENT, call.node, PREFIX)
        yield from self._layout_findings(meeting)
        yield from self._window_findings(meeting)
        yield from self._argument_findings(meeting)
        yield from self._score_findings(meeting)
        yield from self._later_uses(meeting)

    def _layout_findings(self, meeting: Meeting) -> Iterator[Finding]:
        key, value = self._layouts.of(meeting.key), self._layouts.of(meeting.value)
        by_convention = meeting.core is Core.INTERFACE and key is None and value is None
        if by_convention or (is_key_layout(key) and is_key_layout(value)):
            return
        if (
            meeting.core is Core.INTERFACE
            and (key is None or is_key_layout(key))
            and (value is None or is_key_layout(value))
        ):
            return
        for name, layout in (("key", key), ("value", value)):
            if not is_key_layout(layout):
                found = "not shown by the text" if layout is None else f"({', '.join(layout)})"
                said = {"name": name, "found": found}
                yield Finding(Problem.OTHER_LAYOUT, meeting.nodes[name], PREFIX, said)

    def _window_findings(self, meeting: Meeting) -> Iterator[Finding]:
        """Hidden states that are cut up before the attention module sees them: its batch is one of windows."""
        for linear in sources(meeting.query, self._kinds, frozenset({Kind.LINEAR})):
            value = linear.inputs[0] if linear.inputs else None
            while value is not None:
                outside = value.frame.path != meeting.path
                if outside and (called(value, *_RESHAPING) or (value.op is Op.FUNCTION and value.through is not None)):
                    yield Finding(Problem.WINDOWS, value.node, PREFIX)
                    return
                is_sum = value.is_sum
                back = () if is_sum else one_step_back(value, self._kinds)
                value = back[0] if len(back) == 1 else None

    def _argument_findings(self, meeting: Meeting) -> Iterator[Finding]:
        if meeting.core is Core.SOFTMAX:
            return
        added = self._added_by_eager(meeting)
        for name, node in meeting.nodes.items():
            value = meeting.call.keyword(name)
            if name in _PACKED and value is not None and not value.is_none:
                yield Finding(Problem.PACKED, node, PREFIX)
            elif (
                (name in _PER_HEAD and value is not None and _is_own_attribute(value))
                or name == "position_bias"
                or name in added
            ):
                continue
            elif name not in _SAFE and value is not None and not is_scalar(value):
                yield Finding(Problem.UNKNOWN_ARGUMENT, node, PREFIX, {"name": name})
        if meeting.core is Core.SDPA:
            causal = meeting.call.keyword("is_causal")
            if causal is not None and not (
                same_tensor(causal).op is Op.CONSTANT and same_tensor(causal).literal == "False"
            ):
                yield Finding(Problem.CAUSAL_BY_FLAG, meeting.nodes["is_causal"], PREFIX)

    def _score_findings(self, meeting: Meeting) -> Iterator[Finding]:
        if meeting.core is Core.SOFTMAX:
            for text, node in meeting.troubles:
                yield Finding(Problem.SCORES_NOT_ADDITIVE, node, PREFIX, {"what": text})
            if not meeting.is_lifted and not is_plain_transposition(meeting):
                yield Finding(Problem.KEY_NOT_TRANSPOSED, meeting.call.node, PREFIX)
            for value, node in meeting.terms:
                if self._term_name(meeting, value, node) is None:
                    code = self._facts.code(node)
                    yield Finding(Problem.TERM_NOT_KNOWN_BEFORE, node, PREFIX, {"code": code})
        elif meeting.core is Core.SDPA:
            for text, node in meeting.troubles:
                yield Finding(Problem.KERNEL_CALLED_DIRECTLY, node, PREFIX, {"what": text})
        elif meeting.core is Core.INTERFACE:
            eager = _eager_function(meeting)
            troubles = added_to_scores(self._facts, eager, self._kinds).troubles if eager else ()
            for text, node in troubles:
                yield Finding(Problem.EAGER_DIFFERS, node, PREFIX, {"function": eager, "what": text})

    def _later_uses(self, meeting: Meeting) -> Iterator[Finding]:
        """Keys that are used after the core would be used with their prefix."""
        own = {id(meeting.call), id(meeting.result)}
        for name, value in (("key", meeting.key), ("value", meeting.value)):
            for use in self._consumers.of(value):
                later = self._order[id(use)] > self._order[id(meeting.call)]
                reads = use.op in (Op.TUPLE, Op.JOIN, Op.SUBMODULE, Op.HELPER, Op.CALL, Op.FUNCTION)
                if later and reads and id(use) not in own and not self._is_elsewhere(meeting.call, use):
                    yield Finding(Problem.USED_AGAIN, use.node, PREFIX, {"name": name})

    def _is_elsewhere(self, call: Value, use: Value) -> bool:
        """Whether a use stands in another branch than the core, so that only one of them runs."""
        frame = call.frame
        if use.frame is not frame or not frame.class_name or call.statement is None or use.statement is None:
            return False
        function = self._facts.classes[frame.class_name].functions[frame.function].node
        core, other = self._facts.location(call.statement), self._facts.location(use.statement)
        return any(core.line <= split < other.line for split in _splits(self._facts, function, core.line, other.line))

    # -- arguments ---------------------------------------------------------------------------------------------------

    def _added_by_eager(self, meeting: Meeting) -> frozenset[str]:
        eager = _eager_function(meeting) if meeting.core is Core.INTERFACE else ""
        return added_to_scores(self._facts, eager, self._kinds).parameters if eager else frozenset()

    def _term_name(self, meeting: Meeting, value: Value, node: cst.BaseExpression) -> cst.Name | None:
        """The name under which a term of the scores is bound before the core, if it is the same tensor there."""
        while isinstance(node, cst.Subscript):  # ``mask[..., : key.shape[-2]]`` is cut after it has grown
            node = node.value
            value = same_tensor(value).inputs[0] if same_tensor(value).op is Op.ITEM else value
        while (
            isinstance(node, cst.Call)
            and isinstance(node.func, cst.Attribute)
            and node.func.attr.value in ("to", "type_as")
        ):
            node = node.func.value
            value = value.inputs[0] if value.op is Op.METHOD else value
        environment = self._environment(meeting)
        if not isinstance(node, cst.Name) or node.value not in environment:
            return None
        bound = environment[node.value]
        return node if same_tensor(bound) is same_tensor(value) else None

    def _environment(self, meeting: Meeting) -> dict[str, Value]:
        if meeting.call.statement is None:
            return {}
        return dict(self._flow.before.get((meeting.call.frame, meeting.call.statement), {}))

    def _gate_input(self, meeting: Meeting) -> str | None:
        """A name for what the query was projected from: through the first projection, if there are several in line."""
        environment = self._environment(meeting)
        by_tensor = {id(same_tensor(value)): name for name, value in reversed(environment.items())}
        found: str | None = None
        todo, seen = [meeting.query], set()
        while todo:
            value = todo.pop(0)
            if id(value) in seen:
                continue
            seen.add(id(value))
            for linear in sources(value, self._kinds, frozenset({Kind.LINEAR, Kind.CONVOLUTION})):
                if id(linear) in seen or not linear.inputs:
                    continue
                seen.add(id(linear))
                found = self._named(linear, environment, by_tensor) or found
                todo.append(linear.inputs[0])
        return found

    def _named(self, linear: Value, environment: dict[str, Value], by_tensor: dict[int, str]) -> str | None:
        argument = linear.inputs[0]
        written = linear.node.args[0].value if isinstance(linear.node, cst.Call) and linear.node.args else None
        name = written.value if isinstance(written, cst.Name) else ""
        if name in environment and same_tensor(environment[name]) is same_tensor(argument):
            return name
        while id(same_tensor(argument)) not in by_tensor:
            back = [
                one
                for one in one_step_back(argument, self._kinds)
                if self._layouts.of(argument) == self._layouts.of(one)
            ]
            if len(back) != 1:
                return None
            argument = back[0]
        return by_tensor[id(same_tensor(argument))]

    # -- the site ----------------------------------------------------------------------------------------------------

    def _site(self, meeting: Meeting, gate: str) -> PrefixSite:
        call = meeting.call
        mask, biases = self._mask_and_biases(meeting)
        keywords = [f"{name}={self._facts.code(meeting.nodes[name])}" for name in _HANDED_ON if name in meeting.nodes]
        if isinstance(call.node, cst.Call):
            spread = [arg for arg in call.node.args if arg.star == "**"]
            keywords += [f"**{self._facts.code(argument.value)}" for argument in spread]
        assert call.statement is not None
        grown = [one.code for one in (*biases, *([mask] if mask else []))]
        return PrefixSite(
            class_name=call.frame.class_name,
            function=call.frame.function,
            core=meeting.core,
            location=self._facts.location(call.node),
            statement=self._facts.location(call.statement),
            query=self._expression(meeting.nodes["query"]),
            key=self._expression(meeting.nodes["key"]),
            value=self._expression(meeting.nodes["value"]),
            mask=mask,
            gate_input=Expression(gate, self._facts.location(call.node)),
            biases=tuple(biases),
            keywords=tuple(keywords),
            kept=tuple(name for name in grown if self._read_later(name, meeting)),
        )

    def _mask_and_biases(self, meeting: Meeting) -> tuple[Expression | None, list[Expression]]:
        if meeting.core is Core.SOFTMAX:
            names = [self._term_name(meeting, value, node) for value, node in meeting.terms]
            written = [
                self._expression(name) for name in {one.value: one for one in names if one is not None}.values()
            ]
            return (written[0] if written else None), written[1:]
        node = meeting.nodes.get("mask")
        added = self._added_by_eager(meeting) | {"position_bias"}
        biases = [
            self._expression(node)
            for name, node in meeting.nodes.items()
            if name in added and name not in _SAFE and dotted_name(node) != "None"
        ]
        return (None if node is None else self._expression(node)), biases

    def _expression(self, node: cst.CSTNode) -> Expression:
        return Expression(self._facts.code(node), self._facts.location(node))

    def _read_later(self, name: str, meeting: Meeting) -> bool:
        """Whether the text reads a name again after the core's last statement, in the same function."""
        frame, end = meeting.call.frame, meeting.result.statement
        owner = self._facts.classes[frame.class_name].functions[frame.function].node
        last = self._facts.location(end).end_line if end else 0
        reads = _reads(owner, name)
        return any(self._facts.location(node).line > last for node in reads)


def _splits(facts: ModuleFacts, function: cst.FunctionDef, core: int, other: int) -> Iterator[int]:
    """Last lines of branches that hold line `core`, where another branch of the same ``if`` holds line `other`."""
    found: list[cst.If] = []

    class Visitor(cst.CSTVisitor):
        def visit_If(self, node: cst.If) -> None:
            found.append(node)

    function.visit(Visitor())
    for node in found:
        body = facts.location(node.body)
        if node.orelse is not None and body.line <= core <= body.end_line:
            rest = facts.location(node.orelse)
            if rest.line <= other <= rest.end_line:
                yield body.end_line


def _reads(function: cst.FunctionDef, name: str) -> Iterable[cst.Name]:
    found: list[cst.Name] = []

    class Visitor(cst.CSTVisitor):
        def visit_Name(self, node: cst.Name) -> None:
            if node.value == name:
                found.append(node)

        def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
            return not isinstance(node.target, cst.Name)

        def visit_Arg(self, node: cst.Arg) -> bool:
            node.value.visit(self)  # the keyword is no read
            return False

    function.body.visit(Visitor())
    return found


def _in_comprehension(call: Value) -> bool:
    found: list[cst.CSTNode] = []

    class Visitor(cst.CSTVisitor):
        def visit_CompFor(self, node: cst.CompFor) -> None:
            found.append(node)

        def on_visit(self, node: cst.CSTNode) -> bool:
            if isinstance(node, (cst.ListComp, cst.GeneratorExp, cst.DictComp)):
                inner: list[bool] = []
                node.visit(_Holds(call.node, inner))
                if inner:
                    found.append(node)
                return False
            return True

    if call.statement is not None:
        call.statement.visit(Visitor())
    return bool(found)


class _Holds(cst.CSTVisitor):
    def __init__(self, wanted: cst.CSTNode, found: list[bool]) -> None:
        self._wanted = wanted
        self._found = found

    def on_visit(self, node: cst.CSTNode) -> bool:
        if node is self._wanted:
            self._found.append(True)
        return not self._found


def _is_own_attribute(value: Value) -> bool:
    value = same_tensor(value)
    return value.is_none or (value.op is Op.ATTRIBUTE and value.inputs[0].op is Op.SELF)


def _eager_function(meeting: Meeting) -> str:
    """Name of the eager function that the interface falls back to."""
    for one in alternatives(meeting.call.inputs[0]):
        if one.op is Op.GLOBAL:
            return one.name
        if one.op is Op.INTERFACE and len(one.inputs) > 2:
            fallback = same_tensor(one.inputs[2])
            return fallback.name if fallback.op is Op.GLOBAL else ""
    return ""
