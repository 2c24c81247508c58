"""Where nodes stand in a module's text, worked out for one top-level statement at a time.

libcst learns positions by writing the code out again, which for a whole module takes longer than all other questions that
a plan asks. Most questions are about few of its classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import libcst as cst
from libcst.metadata import CodePosition, CodeRange, PositionProvider
from libcst.metadata.position_provider import PositionProvidingCodegenState

from adapter_codegen.parse.syntax import descendants


class Positions:
    """Answers for one module: the ranges that `PositionProvider` gives."""

    def __init__(self, tree: cst.Module, text: str) -> None:
        self._tree = tree
        self._text = text
        self._known: dict[cst.CSTNode, Mapping[cst.CSTNode, CodeRange]] = {}  # by top-level statement
        self._offsets: dict[cst.CSTNode, int] = {}  # lines in front of the statement

    def range(self, node: cst.CSTNode) -> CodeRange:
        """The range of a node of the tree. Raises KeyError for a node of another tree."""
        statement = self._statements.get(node)
        if statement is None or not self._learn(statement):
            return self._whole[node]
        found, offset = self._known[statement][node], self._offsets[statement]
        start, end = found.start, found.end
        return CodeRange(CodePosition(start.line + offset, start.column), CodePosition(end.line + offset, end.column))

    def _learn(self, statement: cst.CSTNode) -> bool:
        """Whether the statement can be placed alone: its code stands exactly once in the text."""
        if statement not in self._offsets:
            computed, code = _Provider().of_statement(self._tree, statement)
            placed = "\r" not in self._text and self._text.count(code) == 1
            self._known[statement] = computed
            self._offsets[statement] = self._text.count("\n", 0, self._text.index(code)) if placed else -1
        return self._offsets[statement] >= 0

    @cached_property
    def _statements(self) -> Mapping[cst.CSTNode, cst.CSTNode]:
        """Every node below a top-level statement -> that statement."""
        return {node: statement for statement in self._tree.body for node in descendants(statement)}

    @cached_property
    def _whole(self) -> Mapping[cst.CSTNode, CodeRange]:
        return _Provider().of_module(self._tree)


class _Provider(PositionProvider):
    """Positions alone: `MetadataWrapper.resolve` would visit every node once more, for providers that nobody asked for."""

    def of_module(self, tree: cst.Module) -> Mapping[cst.CSTNode, CodeRange]:
        self._gen_impl(tree)
        return self._computed  # type: ignore[return-value]  # plain ranges here; lazy values come from batched providers

    def of_statement(self, tree: cst.Module, statement: cst.CSTNode) -> tuple[Mapping[cst.CSTNode, CodeRange], str]:
        """Positions as if the statement were the first of the module, and its code."""
        state = PositionProvidingCodegenState(
            default_indent=tree.default_indent, default_newline=tree.default_newline, provider=self
        )
        statement._codegen(state)
        return self._computed, "".join(state.tokens)  # type: ignore[return-value]  # as above
