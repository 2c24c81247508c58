"""One function of upstream that is about to be copied: its node, its sites, and how to find nodes by place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import ClassPlan, Location, PrefixSite, ResidualSite
from adapter_codegen.parse.facts import ModuleFacts

Statement = cst.BaseStatement | cst.BaseSmallStatement


@dataclass(frozen=True)
class Copied:
    facts: ModuleFacts
    node: cst.FunctionDef
    owner: str  # the upstream class that defines the function; a subclass of it may be the one that is planned
    prefix_sites: Sequence[PrefixSite]
    residual_sites: Sequence[ResidualSite]
    parents: dict[cst.CSTNode, cst.CSTNode] = field(default_factory=dict, repr=False)

    @classmethod
    def find(cls, facts: ModuleFacts, entry: ClassPlan, name: str) -> Copied:
        """The function `name` of the planned class.

        Raises:
            CodegenError: the class has no such function (R101).
        """
        owner = facts.classes.get(entry.name)
        function = owner.functions.get(name) if owner else None
        if function is None:
            raise Problem.NO_SUCH_FUNCTION.error(entry.location, name=f"{entry.name}.{name}")
        return cls(
            facts,
            function.node,
            function.owner,
            [site for site in entry.prefix_sites if site.function == name],
            [site for site in entry.residual_sites if site.function == name],
        )

    @property
    def first_parameter(self) -> str:
        """``self``, whatever it is called."""
        parameters = (*self.node.params.posonly_params, *self.node.params.params)
        return parameters[0].name.value if parameters else ""

    @cached_property
    def names(self) -> frozenset[str]:
        """Every identifier that stands anywhere in the function."""
        return frozenset(node.value for node in self.descendants if isinstance(node, cst.Name))

    def fresh(self, name: str) -> str:
        """`name`, or with underscores behind it if the function uses it already."""
        while name in self.names:
            name += "_"
        return name

    @cached_property
    def descendants(self) -> tuple[cst.CSTNode, ...]:
        return tuple(_walk(self.node, self.parents))

    def expression(self, location: Location) -> cst.BaseExpression | None:
        """The expression at `location`; None if nothing in the function stands exactly there."""
        found = (node for node in self._at.get(location, ()) if isinstance(node, cst.BaseExpression))
        return next(found, None)

    def replaced(self, location: Location) -> cst.CSTNode:
        """The expression at `location`, or else the small statement there (``x += y``).

        Raises:
            CodegenError: there is neither (R102).
        """
        small = (node for node in self._at.get(location, ()) if isinstance(node, cst.AugAssign))
        found = self.expression(location) or next(small, None)
        if found is None:
            raise Problem.NO_SUCH_EXPRESSION.error(location)
        return found

    def statement(self, location: Location) -> Statement:
        """The statement at `location`: the one that is a member of a block.

        Raises:
            CodegenError: no statement stands there, or it cannot have another one in front of it (R103).
        """
        for node in self._at.get(location, ()):
            if isinstance(node, Statement) and self.member(node) is node:
                return node
        raise Problem.NO_SUCH_STATEMENT.error(location)

    def member(self, node: cst.CSTNode) -> Statement:
        """The innermost statement around `node` that stands in a block on a line of its own, or could stand on one."""
        assert self.descendants, "fills the parents"
        while not _is_member(node, self.parents[node]):
            node = self.parents[node]
        assert isinstance(node, Statement)
        return node

    @cached_property
    def _at(self) -> Mapping[Location, Sequence[cst.CSTNode]]:
        places: dict[Location, list[cst.CSTNode]] = defaultdict(list)
        for node in self.descendants:
            if isinstance(node, (cst.BaseExpression, cst.BaseStatement, cst.BaseSmallStatement)):
                places[self.facts.location(node)].append(node)
        return places


def _walk(node: cst.CSTNode, parents: dict[cst.CSTNode, cst.CSTNode]) -> Iterator[cst.CSTNode]:
    """`node` and all nodes below it, outer ones first."""
    yield node
    for child in node.children:
        parents[child] = node
        yield from _walk(child, parents)


def _is_member(node: cst.CSTNode, parent: cst.CSTNode) -> bool:
    if isinstance(parent, cst.SimpleStatementLine):
        return len(parent.body) > 1  # "a; b" is split where one of the two is edited
    return isinstance(parent, (cst.IndentedBlock, cst.SimpleStatementSuite)) and isinstance(node, Statement)
