"""Which adapters a residual addition gets: its role in the layer, the module that holds them, and the site of the edit.

Of two sublayers that are added to the stream in one sum, the attention comes first: its adapters read the stream, and those of
the feed-forward block what the attention's gave (`parallel`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Beside, BottleneckRole, Method, Placement, ResidualSite, Role
from adapter_codegen.plan.attention.attentions import Attentions
from adapter_codegen.plan.findings import Finding, behind_super
from adapter_codegen.plan.flow.modules import find_submodule, local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors
from adapter_codegen.plan.stream.additions.parallel import Terms, terms_of
from adapter_codegen.plan.stream.additions.residuals import Addition
from adapter_codegen.plan.stream.optional import Flag, flags_around, module_needed
from adapter_codegen.plan.stream.roles import Roles

_HOSTS = {
    Role.ATTENTION: "attention_adapters",
    Role.CROSS_ATTENTION: "cross_attention_adapters",
    Role.OUTPUT: "output_adapters",
}
# In a class that stands around sublayers, and behind a sublayer that is something else in other layers: one host may have several roles
_OF_ANY_ROLE = "residual_adapters"


@dataclass(frozen=True)
class PlacedSite:
    """A residual site together with where it stands in this layer."""

    site: ResidualSite
    path: str  # of the module that holds the site's class, from the layer
    role: Role
    flags: frozenset[Flag] = frozenset()  # without which the forward does not reach it
    sublayer: str = ""  # path of the module that decides on the role, by its class
    by_class: tuple[tuple[Role, tuple[str, ...]], ...] = ()  # the roles, with the classes of `sublayer` that have each
    needs: tuple[str, tuple[str, ...]] | None = (
        None  # a module that only some layers have, without which it is not reached
    )

    @property
    def bottlenecks(self) -> tuple[BottleneckRole, ...]:
        """What holds its adapters, from the layer, in the order in which they run; without its flags."""
        if self.by_class:
            host = _join(self.path, self.site.host)
            return tuple(
                BottleneckRole(host, role, joins=self.site.joins, sublayer=self.sublayer, classes=classes)
                for role, classes in self.by_class
            )
        beside = self.site.beside
        held = [] if beside is None else [(beside.host, beside.role)]
        return tuple(
            BottleneckRole(_join(self.path, host), role, joins=self.site.joins)
            for host, role in (*held, (self.site.host, self.role))
        )


def bottlenecks_of(placed: Iterable[PlacedSite]) -> tuple[BottleneckRole, ...]:
    """What holds the adapters of a layer, each once, under the flags that all of its sites have in common."""
    flags: dict[BottleneckRole, frozenset[Flag]] = {}
    needs: dict[BottleneckRole, tuple[str, tuple[str, ...]] | None] = {}
    for at in placed:
        for role in at.bottlenecks:
            flags[role] = flags.get(role, at.flags) & at.flags
            needs[role] = at.needs if needs.get(role, at.needs) == at.needs else None
    return tuple(_with(_under(role, found), needs[role]) for role, found in flags.items())


def _with(role: BottleneckRole, module: tuple[str, tuple[str, ...]] | None) -> BottleneckRole:
    """The role, in layers that have a module."""
    return role if module is None else replace(role, sublayer=module[0], classes=module[1])


def _under(role: BottleneckRole, flags: Iterable[Flag]) -> BottleneckRole:
    ordered = sorted(flags)
    where = tuple(flag.name for flag in ordered if flag.is_true)
    return replace(role, where=where, unless=tuple(flag.name for flag in ordered if not flag.is_true))


@dataclass(frozen=True, eq=False)
class _Placed:
    addition: Addition
    role: Role
    terms: Terms | None = None  # of a parallel sum

    @property
    def roles(self) -> tuple[Role, ...]:
        return (self.role,) if self.terms is None else (Role.ATTENTION, self.role)


class Placing:
    """Places the additions of one layer."""

    def __init__(
        self, scene: Scene, attentions: Attentions, roles: Roles, holders: Mapping[int, str] | None = None
    ) -> None:
        """`holders`: ``id(value)`` of an addition that stands beside its layer -> code that gives the layer there."""
        self._scene = scene
        self._attentions = attentions
        self._roles = roles
        self._holders = holders or {}

    def sites(self, additions: Iterable[Addition], findings: list[Finding]) -> tuple[PlacedSite, ...]:
        """The sites of additions, in their order. What gets none goes into `findings`."""
        placed = [placed for addition in additions for placed in self._placed(addition, findings)]
        found = list(_joined_alike(placed, findings))
        return tuple(self._site(placed, found) for placed in found)

    def _placed(self, addition: Addition, findings: list[Finding]) -> Iterator[_Placed]:
        role, value = self._roles.of(addition), addition.value
        if role is None:
            findings.append(Finding(Problem.MIXES_POSITIONS, value.node))
        elif self._roles.is_extra(addition):
            findings.append(Finding(Problem.EXTRA_OUTPUT, value.node))
        elif None in self._roles.by_class(addition).values():
            findings.append(self._unknown_class(addition))
        elif not value.frame.class_name:
            findings.append(Finding(Problem.ADDITION_WITHOUT_CLASS, value.node, (Method.BOTTLENECK,)))
        elif self._scene.is_behind_super(value.frame):
            findings.append(behind_super(value, Method.BOTTLENECK))
        elif (terms := terms_of(addition, self._scene, self._attentions)) is not None:
            findings.append(Finding(Problem.JOINT_ADDITION, value.node))
            whole = replace(addition, branch_node=terms.other, placement=Placement.PARALLEL_SUM, norm=None)
            yield _Placed(whole, Role.OUTPUT, terms)
        else:
            yield _Placed(addition, role)

    def _unknown_class(self, addition: Addition) -> Finding:
        name = next(name for name, role in self._roles.by_class(addition).items() if role is None)
        return Finding(Problem.SUBLAYER_NOT_KNOWN, addition.value.node, (Method.BOTTLENECK,), {"name": name})

    def _host(self, placed: _Placed, role: Role, found: list[_Placed]) -> str:
        """The attribute that holds the adapters; "" where the class of the addition is a module of its own for it."""
        frame = placed.addition.value.frame
        here = [other for other in found if other.addition.value.frame is frame]
        alone = len(here) == 1 and placed.terms is None
        if frame.depth and alone:
            # A scaled residual is none that the class itself could hand over.
            is_own = placed.addition.residual.op is Op.PARAMETER and placed.addition.placement is not Placement.BRANCH
            return "" if is_own else _OF_ANY_ROLE
        if self._roles.by_class(placed.addition):
            return _OF_ANY_ROLE + (f"_{number}" if (number := self._split_before(placed, found)) else "")
        earlier = [other for other in here[: here.index(placed)] if role in other.roles]
        behind = ancestors(placed.addition.value)
        # Only those that run before this one count: additions in another branch share the adapters, and so do those of one output.
        runs_before = [other for other in earlier if id(other.addition.value) in behind]
        others = [other for other in runs_before if other.addition.branch is not placed.addition.branch]
        number = len({self._host(other, role, found) for other in others})  # alternatives have one together
        return _HOSTS[role] + (f"_{number}" if number else "")

    def _split_before(self, placed: _Placed, found: list[_Placed]) -> int:
        """How many of the additions before one have a role per class too."""
        return sum(bool(self._roles.by_class(other.addition)) for other in found[: found.index(placed)])

    def _site(self, placed: _Placed, found: list[_Placed]) -> PlacedSite:
        addition, role, scene = placed.addition, placed.role, self._scene
        host = self._host(placed, role, found)
        value, norm = addition.value, addition.norm
        assert value.statement is not None
        in_next = addition.placement is Placement.NORM_IN_NEXT_STATEMENT
        replaced = self._replaced(addition)
        callee = norm.node.func if norm is not None and isinstance(norm.node, cst.Call) else None
        dropped = norm.statement if norm is not None and in_next else None
        site = ResidualSite(
            class_name=value.frame.class_name,
            function=value.frame.function,
            placement=addition.placement,
            location=scene.facts.location(replaced),
            statement=scene.facts.location(value.statement),
            branch=scene.expression(addition.branch_node),
            residual=None if addition.residual_node is None else scene.expression(addition.residual_node),
            norm=None if callee is None else scene.expression(callee),
            dropped=None if dropped is None else scene.facts.location(dropped),
            host=host,
            role=None if not host or host.startswith(_OF_ANY_ROLE) else role,
            beside=self._beside(placed, found),
            holder=self._holders.get(id(value), ""),
        )
        flags = flags_around(value.statement, value.frame, scene.facts) if host else frozenset()
        by_class = _classes_of_roles(self._roles.by_class(addition))
        needs = self._needs(value) if host and not by_class and role is not Role.CROSS_ATTENTION else None
        return PlacedSite(site, value.frame.path, role, flags, addition.work.path if by_class else "", by_class, needs)

    def _needs(self, value: Value) -> tuple[str, tuple[str, ...]] | None:
        """A module, with its classes, without which the layer does not come to an addition."""
        path = module_needed(value, self._scene)
        held = find_submodule(self._scene.facts, (self._scene.flow.root.class_name,), path)
        return None if held is None else (path, tuple(map(local_class, held.classes)))

    @staticmethod
    def _replaced(addition: Addition) -> cst.CSTNode:
        """What a call of the adapters takes the place of."""
        if addition.placement is Placement.BRANCH:
            return addition.branch_node
        is_around = addition.norm is not None and addition.placement is not Placement.NORM_IN_NEXT_STATEMENT
        return addition.norm.node if is_around and addition.norm is not None else addition.value.node

    def _beside(self, placed: _Placed, found: list[_Placed]) -> Beside | None:
        """The attention in a parallel sum."""
        if placed.terms is None:
            return None
        host = self._host(placed, Role.ATTENTION, found)
        return Beside(self._scene.expression(placed.terms.attending), host, Role.ATTENTION)


def _joined_alike(found: Iterable[_Placed], findings: list[Finding]) -> Iterator[_Placed]:
    """Alternatives have one host together: where upstream's own code adds in one of them (a gate), it does in the others too."""
    found = list(found)
    lifted = {id(placed.addition.branch) for placed in found if placed.addition.placement is Placement.BRANCH}
    for placed in found:
        addition = placed.addition
        is_plain = isinstance(addition.value.node, cst.BinaryOperation) and placed.terms is None
        if id(addition.branch) not in lifted or addition.placement is Placement.BRANCH:
            yield placed
        elif is_plain and isinstance(addition.residual_node, cst.Name):
            yield replace(placed, addition=replace(addition, placement=Placement.BRANCH, norm=None))
        else:  # the residual is read once more, in front of the sum
            findings.append(Finding(Problem.ADDED_ELSEWHERE, addition.value.node, (Method.BOTTLENECK,)))


def _classes_of_roles(roles: Mapping[str, Role | None]) -> tuple[tuple[Role, tuple[str, ...]], ...]:
    """Each role with the classes that have it."""
    found = dict.fromkeys(role for role in roles.values() if role is not None)
    return tuple((role, tuple(name for name, one in roles.items() if one is role)) for role in found)


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part)
