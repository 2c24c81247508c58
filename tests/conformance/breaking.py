"""Ways to break generated code and the runtime in memory, for tests that a check can fail."""

from __future__ import annotations

import ast
import importlib
import sys
import types
from collections.abc import Callable

import pytest

from conformance.emitted import is_site, source_of


def edit_generated(patch: pytest.MonkeyPatch, module: str, edit: Callable[[str], str]) -> None:
    """Until the end of the test, `init` takes its classes from the edited text of a generated module."""
    intact = importlib.import_module(module)
    source = source_of(module)
    changed = edit(source)
    assert changed != source, "the edit changes nothing"
    broken = types.ModuleType(module)
    broken.__package__, broken.__spec__ = intact.__package__, intact.__spec__
    # Under its own path: some of upstream's decorators read where a function comes from.
    exec(compile(changed, str(intact.__file__), "exec"), broken.__dict__)
    patch.setitem(sys.modules, module, broken)


def sites(module: str) -> list[str]:
    """Every call of adapters in a generated module, as "Class.function: call", in its order."""
    finder = _Sites()
    finder.visit(ast.parse(source_of(module)))
    return [label for label, _ in finder.found]


def without_site(source: str, index: int) -> str:
    """`source` in which the site `index` computes what upstream does there."""
    tree = ast.parse(source)
    finder = _Sites()
    finder.visit(tree)
    _, call = finder.found[index]
    return ast.unparse(ast.fix_missing_locations(_Replace(call).visit(tree)))


class _Sites(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[tuple[str, ast.Call]] = []
        self._scope: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()

    visit_FunctionDef = visit_ClassDef  # type: ignore[assignment]

    def visit_Call(self, node: ast.Call) -> None:
        if is_site(node):
            assert isinstance(node.func, ast.Attribute)
            self.found.append((f"{'.'.join(self._scope)}: {node.func.attr}", node))
        self.generic_visit(node)


class _Replace(ast.NodeTransformer):
    """prepend_prefix(q, k, v, m, ...) -> (k, v, m);  host(x, r, norm) -> norm(x + r) or x + r;  host(x, r) and host(x) -> x."""

    def __init__(self, call: ast.Call) -> None:
        self.call = call

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if node is not self.call:
            return self.generic_visit(node)
        assert isinstance(node.func, ast.Attribute)
        if node.func.attr == "prepend_prefix":
            return ast.Tuple(node.args[1:4], ast.Load())
        if len(node.args) < 3:  # where upstream itself adds
            return node.args[0]
        x, residual, norm = node.args
        total = ast.BinOp(x, ast.Add(), residual)
        if isinstance(norm, ast.Constant):
            return total
        return ast.Call(norm, [total], [])
