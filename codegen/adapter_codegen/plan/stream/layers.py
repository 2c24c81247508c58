"""One layer class -> its roles, and the sites in it and in the classes that it calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import (
    AttentionKind,
    AttentionRoles,
    BottleneckRole,
    Expression,
    LayerPlan,
    Method,
    MLPRoles,
    Placement,
    PrefixSite,
    ResidualSite,
    Role,
)
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.attention.cores import find_meetings
from adapter_codegen.plan.attention.prefix import PrefixPlanner
from adapter_codegen.plan.attention.projections import Projections
from adapter_codegen.plan.attention.unusable import unusable
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import Layouts
from adapter_codegen.plan.flow.modules import find_submodule, local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Frame, Op, Value, ancestors
from adapter_codegen.plan.flow.walks import last_name
from adapter_codegen.plan.stream.residuals import Addition, find_residuals, operand_nodes

_HOSTS = {
    Role.ATTENTION: "attention_adapters",
    Role.CROSS_ATTENTION: "cross_attention_adapters",
    Role.OUTPUT: "output_adapters",
}
_MIXING = frozenset({"cumsum", "softplus", "einsum", "conv1d", "exp", "fft", "rfft", "segment_sum"})


@dataclass(frozen=True)
class PlacedSite:
    """A residual site together with where it stands in this layer."""

    site: ResidualSite
    path: str  # of the module that holds the site's class, from the layer
    role: Role


@dataclass
class LayerFindings:
    """What one layer class gave."""

    plan: LayerPlan
    prefix: list[PrefixSite] = field(default_factory=list)
    residual: list[PlacedSite] = field(default_factory=list)
    core_classes: tuple[str, ...] = ()  # classes that hold a core of the layer
    refused_cores: dict[str, list[Finding]] = field(default_factory=dict)  # class -> why it takes no prefix
    findings: list[Finding] = field(default_factory=list)


class LayerPlanner:
    """Plans one layer class."""

    def __init__(self, facts: ModuleFacts, kinds: Kinds, class_name: str) -> None:
        self._facts = facts
        self._kinds = kinds
        self._class_name = class_name
        self._findings: list[Finding] = []

    def plan(self) -> LayerFindings | None:
        """The layer; None where its class has no forward in this file.

        Raises:
            TooLarge: the forward cannot be followed.
        """
        flow = trace(self._facts, self._class_name)
        if flow is None:
            return None
        self._flow = flow
        self._meetings = find_meetings(flow, self._kinds)
        self._projections = Projections(flow, self._kinds)
        self._kind_at = self._kinds_of_paths()
        residuals = find_residuals(flow, self._kinds)
        self._findings += residuals.findings
        placed = list(self._place(residuals.additions))
        attentions = tuple(self._attentions())
        plan = LayerPlan(
            class_name=self._class_name,
            location=self._facts.location(self._facts.classes[self._class_name].node),
            attentions=attentions,
            bottlenecks=tuple(dict.fromkeys(BottleneckRole(_join(p.path, p.site.host), p.role) for p in placed)),
            mlp=self._feed_forward(residuals.additions, attentions),
        )
        plan = self._with_optional(plan)
        self._findings += unusable(plan, self._meetings)
        result = LayerFindings(plan=plan, residual=placed, findings=self._findings)
        self._prefixes(result, PrefixPlanner(self._facts, flow, self._kinds, Layouts(self._kinds)))
        return result

    # -- attention ---------------------------------------------------------------------------------------------------

    def _kinds_of_paths(self) -> dict[str, AttentionKind]:
        """A core's module may be one of several classes; what it is used for is the same for all of them."""
        found: dict[str, AttentionKind] = {}
        for meeting in self._meetings:
            kind = self._projections.kind(meeting)
            if found.get(meeting.path) is not AttentionKind.CROSS:
                found[meeting.path] = kind
        return found

    def _attentions(self) -> Iterator[AttentionRoles]:
        for path, kind in self._kind_at.items():
            roles = [self._projections.roles(one) for one in self._meetings if one.path == path]
            same = [one for one in roles if one.kind is kind] or roles
            best = max(
                same, key=lambda one: sum(map(bool, (one.query, one.key, one.value, 3 * one.fused, one.output)))
            )
            if not best.fused and not (best.query and best.key and best.value):
                self._missing_projection(path)
            yield best
        yield from self._torch_attentions()

    def _torch_attentions(self) -> Iterator[AttentionRoles]:
        """nn.MultiheadAttention: attention, with nothing inside that adapters could take hold of but its output."""
        calls = [one for one in self._flow.values if self._is_torch_attention(one)]
        for path in dict.fromkeys(one.path for one in calls):
            call = next(one for one in calls if one.path == path)
            methods = (Method.PREFIX_TUNING, Method.LORA)
            self._findings.append(Finding(Problem.TORCH_ATTENTION, call.node, methods))
            yield AttentionRoles(core=path, kind=AttentionKind.SELF)

    def _is_torch_attention(self, value: Value) -> bool:
        if value.op is not Op.SUBMODULE or value.module is None:
            return False
        return self._kinds.of(value.module.classes) is Kind.TORCH_ATTENTION

    def _missing_projection(self, path: str) -> None:
        call = next(one.call for one in self._meetings if one.path == path)
        self._findings.append(Finding(Problem.NO_PROJECTIONS, call.node, (Method.LORA,), {"core": path or "self"}))

    def _prefixes(self, result: LayerFindings, planner: PrefixPlanner) -> None:
        result.core_classes = tuple(dict.fromkeys(one.call.frame.class_name for one in self._meetings))
        for meeting in self._meetings:
            behind_super = self._is_behind_super(meeting.call.frame)
            site = [self._behind_super(meeting.call, Method.PREFIX_TUNING)] if behind_super else planner.plan(meeting)
            if isinstance(site, PrefixSite):
                result.prefix.append(site)
            else:
                result.refused_cores.setdefault(meeting.call.frame.class_name, []).extend(site)

    # -- functions that are not copied -------------------------------------------------------------------------------

    def _is_behind_super(self, frame: Frame) -> bool:
        """Whether a function runs that its class overrides: the copy that is edited is of the overriding one."""
        known = self._facts.classes.get(frame.class_name)
        return known is not None and known.functions[frame.function].owner != frame.owner

    def _behind_super(self, value: Value, method: Method) -> Finding:
        frame = value.frame
        said = {"function": frame.function, "name": frame.class_name}
        return Finding(Problem.BEHIND_SUPER, value.node, (method,), said)

    # -- residual additions ------------------------------------------------------------------------------------------

    def _place(self, additions: Iterable[Addition]) -> Iterator[PlacedSite]:
        found: list[tuple[Addition, Role]] = []
        for addition in additions:
            role = self._role(addition)
            if role is None:
                self._findings.append(Finding(Problem.MIXES_POSITIONS, addition.value.node))
            elif not addition.value.frame.class_name:
                self._findings.append(
                    Finding(Problem.ADDITION_WITHOUT_CLASS, addition.value.node, (Method.BOTTLENECK,))
                )
            elif self._is_behind_super(addition.value.frame):
                self._findings.append(self._behind_super(addition.value, Method.BOTTLENECK))
            else:
                inner = self._attending_term(addition)
                found += [(inner, Role.ATTENTION), (addition, Role.OUTPUT)] if inner else [(addition, role)]
        for addition, role in found:
            host = self._host(addition, role, found)
            yield PlacedSite(self._site(addition, role, host), addition.value.frame.path, role)

    def _role(self, addition: Addition) -> Role | None:
        before = ancestors(addition.residual)
        branch = {key: one for key, one in ancestors(addition.branch).items() if key not in before}
        paths = [one.path for one in self._meetings if id(one.result) in branch]
        if addition.joint and paths:
            return Role.OUTPUT
        if any(self._kind_at[path] is AttentionKind.CROSS for path in paths):
            return Role.CROSS_ATTENTION
        if paths or any(self._is_torch_attention(one) for one in branch.values()):
            return Role.ATTENTION
        first, _, last = self._projections.feed_forward(addition.branch, addition.residual)
        if self._mixes_positions(branch) and not (self._meetings and first and last):
            return None
        return Role.OUTPUT

    def _mixes_positions(self, branch: dict[int, Value]) -> bool:
        for value in branch.values():
            if value.op is Op.SUBMODULE and value.module is not None:
                if self._kinds.of(value.module.classes) is Kind.CONVOLUTION:
                    return True
            elif value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in _MIXING:
                return True
        return False

    def _attending_term(self, addition: Addition) -> Addition | None:
        """``a + f`` of ``a + f + r``: the attention gets its own site in the inner sum."""
        inner = addition.branch
        while inner.through is not None:
            inner = inner.through
        if not addition.joint or inner.op is not Op.BINARY or inner.frame is not addition.value.frame:
            return None
        attending = [self._attends(one) for one in inner.inputs]
        nodes = operand_nodes(inner)
        if attending.count(True) != 1 or nodes is None:
            return None
        place = attending.index(True)
        self._findings.append(Finding(Problem.JOINT_ADDITION, inner.node))
        return Addition(
            value=inner,
            branch=inner.inputs[place],
            residual=inner.inputs[1 - place],
            branch_node=nodes[place],
            residual_node=nodes[1 - place],
            work=addition.work,
            placement=Placement.ADDITION,
            norm=None,
        )

    def _attends(self, value: Value) -> bool:
        behind = ancestors(value)
        return any(id(one.result) in behind for one in self._meetings)

    def _host(self, addition: Addition, role: Role, found: list[tuple[Addition, Role]]) -> str:
        frame = addition.value.frame
        here = [(one, its) for one, its in found if one.value.frame is frame]
        if frame.depth and len(here) == 1 and self._is_parameter(addition.residual):
            return ""
        earlier = [one for one, its in here[: here.index((addition, role))] if its is role]
        behind = ancestors(addition.value)
        number = sum(id(one.value) in behind for one in earlier)  # those in another branch share the adapters
        return _HOSTS[role] + (f"_{number}" if number else "")

    def _is_parameter(self, residual: Value) -> bool:
        return residual.op is Op.PARAMETER

    def _site(self, addition: Addition, role: Role, host: str) -> ResidualSite:
        value, norm = addition.value, addition.norm
        assert value.statement is not None
        in_next = addition.placement is Placement.NORM_IN_NEXT_STATEMENT
        replaced = norm if norm is not None and not in_next else value
        callee = getattr(norm.node, "func", None) if norm is not None else None
        return ResidualSite(
            class_name=value.frame.class_name,
            function=value.frame.function,
            placement=addition.placement,
            location=self._facts.location(replaced.node),
            statement=self._facts.location(value.statement),
            branch=self._expression(addition.branch_node),
            residual=self._expression(addition.residual_node),
            norm=None if callee is None else self._expression(callee),
            dropped=self._facts.location(norm.statement) if in_next and norm is not None and norm.statement else None,
            host=host,
            role=role if host else None,
        )

    def _expression(self, node: cst.CSTNode) -> Expression:
        return Expression(self._facts.code(node), self._facts.location(node))

    # -- feed-forward ------------------------------------------------------------------------------------------------

    def _feed_forward(self, additions: Iterable[Addition], attentions: tuple[AttentionRoles, ...]) -> MLPRoles:
        attending = {p for one in attentions for p in (one.query, one.key, one.value, one.fused, one.output)}
        attending |= {path for one in attentions for path in one.query_alternatives}
        parts: tuple[list[str], list[str], list[str]] = ([], [], [])
        for addition in additions:
            if self._role(addition) is Role.OUTPUT:
                for known, found in zip(
                    parts, self._projections.feed_forward(addition.branch, addition.residual), strict=True
                ):
                    known += [path for path in found if path not in attending and path not in known]
        return MLPRoles(*(tuple(paths) for paths in parts))

    # -- optional paths ----------------------------------------------------------------------------------------------

    def _with_optional(self, plan: LayerPlan) -> LayerPlan:
        """The same plan with the beginnings of paths that some instances of the layer lack."""
        paths = [path for one in plan.attentions for path in (one.core, one.query, one.key, one.value, one.fused)]
        paths += [path for one in plan.attentions for path in one.query_alternatives]
        paths += [one.output for one in plan.attentions] + [one.host for one in plan.bottlenecks]
        paths += [*plan.mlp.first, *plan.mlp.gate, *plan.mlp.last]
        found = dict.fromkeys(start for path in paths for start in self._optional_start(path))
        return LayerPlan(
            plan.class_name, plan.location, plan.attentions, plan.bottlenecks, plan.mlp, tuple(sorted(found))
        )

    def _optional_start(self, path: str) -> Iterator[str]:
        classes: tuple[str, ...] = (self._class_name,)
        parts = path.split(".") if path else []
        for index, part in enumerate(parts):
            if part.lstrip("-").isdigit() or part == "*":
                if len(classes) > 1 and part != "*" and -len(classes) <= int(part) < len(classes):
                    if 0 < int(part) < len(classes) - 1:  # of a written list, the ends are always there
                        yield ".".join(parts[: index + 1])
                        return
                    classes = (classes[int(part)],)
                continue
            submodule = find_submodule(self._facts, classes, part)
            if submodule is None:
                return  # a host that adapters will create
            local = [
                self._facts.classes[local_class(one)] for one in classes if local_class(one) in self._facts.classes
            ]
            if submodule.conditional or any(part not in one.submodules for one in local):
                yield ".".join(parts[: index + 1])
                return
            classes = submodule.classes


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)
