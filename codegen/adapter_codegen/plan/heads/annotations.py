"""Annotations of upstream's parameters, as they can stand in a generated file, and what must be imported for them."""

from __future__ import annotations

import ast
import builtins
import sys
from dataclasses import dataclass

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.imports import import_statement

UNKNOWN = "Any"
_WITHOUT_PARAMETERS = {"dict": "dict[Any, Any]", "list": "list[Any]", "set": "set[Any]", "tuple": "tuple[Any, ...]"}


@dataclass(frozen=True)
class Annotation:
    """A type as text."""

    text: str
    imports: frozenset[str] = frozenset()  # statements that bind its names

    def optional(self) -> Annotation:
        """The same type, or None."""
        parts = {part.strip() for part in self.text.split("|")}
        has_none = parts & {"None", UNKNOWN} or self.text.startswith("Optional[")
        return self if has_none else Annotation(f"{self.text} | None", self.imports)


def read_annotation(code: str, facts: ModuleFacts, module: str) -> Annotation:
    """The annotation `code` of the file with these facts; ``Any`` where it is none, or uses a name that the file does not bind.

    Args:
        module: the dotted name of the file, from which its names are imported.
    """
    try:
        tree = ast.parse(code, mode="eval").body
    except SyntaxError:
        return Annotation(UNKNOWN)
    tree = _Spelled().visit(tree)
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    imports = set()
    for name in names:
        statement = _import(name, facts, module)
        if statement is None:
            return Annotation(UNKNOWN)
        imports.add(statement)
    return Annotation(ast.unparse(tree), frozenset(imports - {""}))


class _Spelled(ast.NodeTransformer):
    """Types in quotes without them, and containers of anything with parameters that say so."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Literal":
            return node  # its strings are values
        node.slice = self.visit(node.slice)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not isinstance(node.value, str):
            return node
        inner: ast.AST = self.visit(ast.parse(node.value, mode="eval").body)
        return inner

    def visit_Name(self, node: ast.Name) -> ast.AST:
        spelled = _WITHOUT_PARAMETERS.get(node.id)
        return ast.parse(spelled, mode="eval").body if spelled else node


def _import(name: str, facts: ModuleFacts, module: str) -> str | None:
    """The statement that binds `name`; "" where it needs none, None where the file does not bind it either."""
    if name == UNKNOWN or hasattr(builtins, name):
        return ""
    origin = facts.imports.get(name, "")
    top = origin.partition(".")[0]
    if top == "torch" or top in sys.stdlib_module_names:
        return import_statement(name, origin)
    return f"from {module} import {name}" if facts.binds(name) else None
