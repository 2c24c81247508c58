"""The driver: makes all edits of one function in one pass and marks the statements that they touch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Expression
from adapter_codegen.rewrite.copied import Copied, Statement
from adapter_codegen.rewrite.edit import Edit, Insert, Remove, Replace
from adapter_codegen.rewrite.markers import Member, marked_block

_Left = cst.CSTNode | cst.RemovalSentinel | cst.FlattenSentinel[cst.CSTNode]  # what leaving a node may give


def apply(function: Copied, edits: Iterable[Edit]) -> cst.FunctionDef:
    """A copy of the function with `edits` made, each between marker comments."""
    updated = function.node.visit(_Driver(function, list(edits)))
    assert isinstance(updated, cst.FunctionDef)
    # Blank lines in front of the function belong to the class that it came from; its comments stay.
    comments = [line for line in updated.leading_lines if line.comment is not None]
    return updated.with_changes(leading_lines=comments)


class _Driver(cst.CSTTransformer):
    """Nodes are found by identity, children are finished before their parents: so an edit sees the edits inside of it."""

    def __init__(self, function: Copied, edits: Sequence[Edit]) -> None:
        super().__init__()
        self.function = function
        self.replacements = {edit.node: edit for edit in edits if isinstance(edit, Replace)}
        self.removals = {function.member(edit.node): edit for edit in edits if isinstance(edit, Remove)}
        self.insertions: dict[Statement, list[str]] = defaultdict(list)
        for edit in edits:
            if isinstance(edit, Insert):
                self.insertions[function.member(edit.before)].extend(edit.lines)
        self.touched = {function.member(node) for node in self.replacements}
        self.finished: dict[cst.CSTNode, _Left] = {}

    def on_leave(  # type: ignore[override]  # an edit may put a node of another type in the place of one
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> _Left:
        updated: _Left = super().on_leave(original_node, updated_node)
        if edit := self.replacements.get(original_node):
            updated = edit.build(lambda expression: self._operand(original_node, expression))
        self.finished[original_node] = updated
        return updated

    def _operand(self, replaced: cst.CSTNode, expression: Expression) -> cst.BaseExpression:
        """The finished node where `expression` stands in what is replaced; elsewhere its code, read again."""
        node = self.function.expression(expression.location)
        finished = self.finished.get(node) if node is not None and self._contains(replaced, node) else None
        if isinstance(finished, cst.BaseExpression):
            return finished
        return cst.parse_expression(f"({expression.code})").with_changes(lpar=(), rpar=())

    def _contains(self, outer: cst.CSTNode, node: cst.CSTNode) -> bool:
        while node is not outer and node is not self.function.node:
            node = self.function.parents[node]
        return node is outer

    def leave_IndentedBlock(
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> cst.IndentedBlock:
        members = self._members(original_node.body, updated_node.body)
        return marked_block(updated_node, members) if any(member.edited for member in members) else updated_node

    def leave_SimpleStatementSuite(
        self, original_node: cst.SimpleStatementSuite, updated_node: cst.SimpleStatementSuite
    ) -> cst.BaseSuite:
        """``if x: h = h + r`` gets a block, so that the edit can stand on lines of its own."""
        members = [self._small(*pair) for pair in zip(original_node.body, updated_node.body, strict=True)]
        if not any(member.edited for member in members):
            return updated_node
        return marked_block(cst.IndentedBlock([], header=updated_node.trailing_whitespace), members)

    def _members(self, originals: Sequence[cst.BaseStatement], updated: Sequence[cst.BaseStatement]) -> list[Member]:
        members: list[Member] = []
        for before, after in zip(originals, updated, strict=True):
            if isinstance(before, cst.SimpleStatementLine) and isinstance(after, cst.SimpleStatementLine):
                members += self._line(before, after)
            else:
                members.append(self._member(before, after))
        return members

    def _line(self, before: cst.SimpleStatementLine, after: cst.SimpleStatementLine) -> list[Member]:
        """One line; or, where one of its several statements is edited, a line for each of them."""
        small = [self._small(*pair) for pair in zip(before.body, after.body, strict=True)]
        if len(small) < 2 or not any(member.edited for member in small):
            return [self._member(before, after)]
        first, last = small[0], small[-1]
        first.statement = first.statement.with_changes(leading_lines=after.leading_lines)
        last.statement = last.statement.with_changes(trailing_whitespace=after.trailing_whitespace)
        return small

    def _small(self, before: cst.BaseSmallStatement, after: cst.BaseSmallStatement) -> Member:
        # A semicolon joined it to the next one; on a line of its own it has none.
        line = cst.SimpleStatementLine([after.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)])
        return self._member(before, line)

    def _member(self, before: Statement, after: cst.BaseStatement) -> Member:
        removal = self.removals.get(before)
        if removal is not None and not self._follows(before, self.function.member(removal.after)):
            raise Problem.NORM_DOES_NOT_FOLLOW.error(self.function.facts.location(before))
        inserted = [cst.parse_statement(line) for line in self.insertions.get(before, ())]
        return Member(after, inserted, replaced=before in self.touched, removed=removal is not None)

    def _follows(self, statement: Statement, other: Statement) -> bool:
        """Whether `statement` is the next one of the same block; or the same, of which both are a part of one line."""
        line, previous = self._line_of(statement), self._line_of(other)
        block = self.function.parents[line]
        siblings = list(block.body) if isinstance(block, cst.IndentedBlock | cst.SimpleStatementSuite) else []
        together = line is previous and isinstance(line, cst.SimpleStatementLine)
        return together or (previous in siblings and siblings.index(line) == siblings.index(previous) + 1)

    def _line_of(self, statement: Statement) -> cst.CSTNode:
        parent = self.function.parents[statement]
        return parent if isinstance(parent, cst.SimpleStatementLine) else statement
