"""Which adapters a residual addition gets: its role in the layer, the module that holds them, and the site of the edit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import AttentionKind, Method, Placement, ResidualSite, Role
from adapter_codegen.plan.attention.attentions import Attentions
from adapter_codegen.plan.findings import Finding, behind_super
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors
from adapter_codegen.plan.flow.walks import last_name
from adapter_codegen.plan.stream.feed_forward import feed_forward
from adapter_codegen.plan.stream.residuals import Addition, operand_nodes

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


@dataclass(frozen=True, eq=False)
class _Placed:
    addition: Addition
    role: Role


class Placing:
    """Places the additions of one layer."""

    def __init__(self, scene: Scene, attentions: Attentions) -> None:
        self._scene = scene
        self._attentions = attentions

    def role(self, addition: Addition) -> Role | None:
        """Which sublayer an addition belongs to; None where that is none that adapters know."""
        before = ancestors(addition.residual)
        branch = {key: value for key, value in ancestors(addition.branch).items() if key not in before}
        kinds = self._attentions.kinds_in(branch)
        if addition.joint and kinds:
            return Role.OUTPUT
        if AttentionKind.CROSS in kinds:
            return Role.CROSS_ATTENTION
        if kinds or any(map(self._attentions.is_torch_attention, branch.values())):
            return Role.ATTENTION
        first, _, last = feed_forward(addition.branch, addition.residual, self._scene)
        is_feed_forward = self._attentions.cores and first and last
        if any(map(self._mixes_positions, branch.values())) and not is_feed_forward:
            return None
        return Role.OUTPUT

    def _mixes_positions(self, value: Value) -> bool:
        if value.op is Op.SUBMODULE:
            return self._scene.is_call_of(value, Kind.CONVOLUTION)
        return value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in _MIXING

    def sites(self, additions: Iterable[Addition], findings: list[Finding]) -> tuple[PlacedSite, ...]:
        """The sites of additions, in their order. What gets none goes into `findings`."""
        found = [placed for addition in additions for placed in self._placed(addition, findings)]
        return tuple(self._site(placed, self._host(placed, found)) for placed in found)

    def _placed(self, addition: Addition, findings: list[Finding]) -> Iterator[_Placed]:
        role, value = self.role(addition), addition.value
        if role is None:
            findings.append(Finding(Problem.MIXES_POSITIONS, value.node))
        elif not value.frame.class_name:
            findings.append(Finding(Problem.ADDITION_WITHOUT_CLASS, value.node, (Method.BOTTLENECK,)))
        elif self._scene.is_behind_super(value.frame):
            findings.append(behind_super(value, Method.BOTTLENECK))
        elif (inner := self._attending_term(addition)) is not None:
            findings.append(Finding(Problem.JOINT_ADDITION, inner.value.node))
            yield _Placed(inner, Role.ATTENTION)
            yield _Placed(addition, Role.OUTPUT)
        else:
            yield _Placed(addition, role)

    def _attending_term(self, addition: Addition) -> Addition | None:
        """``a + f`` of ``a + f + r``: the attention gets its own site in the inner sum."""
        inner = addition.branch
        while inner.through is not None:
            inner = inner.through
        if not addition.joint or inner.op is not Op.BINARY or inner.frame is not addition.value.frame:
            return None
        attending = [self._attentions.is_behind(operand) for operand in inner.inputs]
        nodes = operand_nodes(inner)
        if attending.count(True) != 1 or nodes is None:
            return None
        place = attending.index(True)
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

    def _host(self, placed: _Placed, found: list[_Placed]) -> str:
        """The attribute that holds the adapters; "" where the class of the addition is a module of its own for it."""
        frame = placed.addition.value.frame
        here = [other for other in found if other.addition.value.frame is frame]
        if frame.depth and len(here) == 1 and placed.addition.residual.op is Op.PARAMETER:
            return ""
        earlier = [other for other in here[: here.index(placed)] if other.role is placed.role]
        behind = ancestors(placed.addition.value)
        # Only those that run before this one count: additions in another branch share the adapters.
        number = sum(id(other.addition.value) in behind for other in earlier)
        return _HOSTS[placed.role] + (f"_{number}" if number else "")

    def _site(self, placed: _Placed, host: str) -> PlacedSite:
        addition, role, scene = placed.addition, placed.role, self._scene
        value, norm = addition.value, addition.norm
        assert value.statement is not None
        in_next = addition.placement is Placement.NORM_IN_NEXT_STATEMENT
        replaced = norm if norm is not None and not in_next else value
        callee = norm.node.func if norm is not None and isinstance(norm.node, cst.Call) else None
        dropped = norm.statement if norm is not None and in_next else None
        site = ResidualSite(
            class_name=value.frame.class_name,
            function=value.frame.function,
            placement=addition.placement,
            location=scene.facts.location(replaced.node),
            statement=scene.facts.location(value.statement),
            branch=scene.expression(addition.branch_node),
            residual=scene.expression(addition.residual_node),
            norm=None if callee is None else scene.expression(callee),
            dropped=None if dropped is None else scene.facts.location(dropped),
            host=host,
            role=role if host else None,
        )
        return PlacedSite(site, value.frame.path, role)
