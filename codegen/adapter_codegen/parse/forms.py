"""Whether code is the same as code that is written down here, but for the names that it gives.

A form is a function in plain Python. Free in it are its parameters, what it assigns, and what stands first behind ``self`` or
``config``; everything else must stand there as it is written. A name of the form stands for one name of the code, and a name of the
code for one of the form. A name in capitals stands for a number, and a name that occurs in several forms for the same in all.

    form("def form(x): y = self.dense(x)")            y2 = self.projection(hidden)    but not  y2 = self.projection(hidden, 1)

Annotations and docstrings do not count, nor do ifs that only import and warn.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from textwrap import dedent

import libcst as cst

_OWNERS = frozenset({"self", "config", "self.config"})
_QUIET = ("warn", "warning", "warning_once")  # last names of calls that tell a user something


@dataclass(frozen=True)
class Names:
    """What the names of forms stand for: ``x`` a variable, ``self.dense`` an attribute, ``config.size`` a field, ``COUNT`` a number."""

    of_form: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.of_form[name]

    def number(self, name: str) -> float:
        """What a name in capitals stands for."""
        return float(self.of_form[name])


@dataclass(frozen=True)
class Form:
    """The body of a form."""

    body: tuple[ast.stmt, ...]
    free: frozenset[str]  # its variables
    parameters: tuple[str, ...]
    defaults: tuple[ast.expr, ...]  # of the last parameters


@cache
def form(text: str) -> Form:
    """The form that is written as one function."""
    function = _function(text)
    parameters = tuple(argument.arg for argument in function.args.args)
    body = tuple(_spoken(function.body))
    return Form(body, frozenset({*parameters, *_bound(function)}), parameters, tuple(function.args.defaults))


def _bound(function: ast.FunctionDef) -> Iterator[str]:
    """The variables of a function, and of those that it defines; and what stands for a number."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and (isinstance(node.ctx, ast.Store) or _is_number(node.id)):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef):
            yield node.name


def whole(wanted: Form, function: cst.FunctionDef, known: Names | None = None) -> Names | None:
    """What the names stand for where a function, its parameters included, has a form; else None.

    Args:
        known: what names stand for that other forms have already.
    """
    code = _function(cst.Module(body=[function]).code)
    takes_more = code.args.vararg or code.args.kwarg or code.args.kwonlyargs or code.args.posonlyargs
    matcher = _Matcher(wanted, known)
    pairs = [
        (ast.Name(name), ast.Name(argument.arg))
        for name, argument in zip(wanted.parameters, code.args.args, strict=False)
    ]
    if takes_more or len(wanted.parameters) != len(code.args.args):
        return None
    is_alike = all(matcher.same(one, other) for one, other in pairs)
    is_alike = is_alike and matcher.same(wanted.defaults, code.args.defaults)
    is_alike = is_alike and matcher.same(wanted.body, tuple(_spoken(code.body)))
    return matcher.names() if is_alike else None


def inside(wanted: Form, function: cst.FunctionDef, known: Names | None = None) -> Names | None:
    """The same where statements of the body of a function that follow on each other have a form; the first that do."""
    body = tuple(_spoken(_function(cst.Module(body=[function]).code).body))
    for start in range(len(body) - len(wanted.body) + 1):
        matcher = _Matcher(wanted, known)
        if matcher.same(wanted.body, body[start : start + len(wanted.body)]):
            return matcher.names()
    return None


class _Matcher:
    def __init__(self, wanted: Form, known: Names | None) -> None:
        self.free = wanted.free
        self.found = dict(known.of_form) if known is not None else {}
        self.taken = {(_kind(name), value): name for name, value in self.found.items()}

    def names(self) -> Names:
        return Names(self.found)

    def same(self, one: object, other: object) -> bool:
        if isinstance(one, (list, tuple)):
            return (
                isinstance(other, (list, tuple))
                and len(one) == len(other)
                and all(self.same(first, second) for first, second in zip(one, other, strict=True))
            )
        if isinstance(one, ast.Name) and one.id in self.free:
            return self._stands_for_number(one, other) if _is_number(one.id) else self._is_name(one, other)
        if isinstance(one, ast.Attribute) and isinstance(other, ast.Attribute):
            owner = ast.unparse(one.value)
            if owner in _OWNERS:
                own = owner.rpartition(".")[2]
                is_config = (one.attr, owner) == ("config", "self")
                is_same = one.attr == other.attr if is_config else self._stands_for(f"{own}.{one.attr}", other.attr)
                return self.same(one.value, other.value) and is_same
        if isinstance(one, (ast.arg, ast.FunctionDef)) and type(one) is type(other):
            name = "arg" if isinstance(one, ast.arg) else "name"
            if not self._stands_for(getattr(one, name), getattr(other, name)):
                return False
            fields = [field for field in one._fields if field != name]
            return all(self.same(getattr(one, field), getattr(other, field)) for field in fields)
        if isinstance(one, ast.AST):
            return type(one) is type(other) and all(
                self.same(getattr(one, name), getattr(other, name)) for name in one._fields if name != "ctx"
            )
        return type(one) is type(other) and one == other

    def _is_name(self, one: ast.Name, other: object) -> bool:
        return isinstance(other, ast.Name) and self._stands_for(one.id, other.id)

    def _stands_for_number(self, one: ast.Name, other: object) -> bool:
        is_number = isinstance(other, ast.Constant) and type(other.value) in (int, float)
        return is_number and self._stands_for(one.id, ast.unparse(other))  # type: ignore[arg-type]

    def _stands_for(self, name: str, value: str) -> bool:
        if _is_number(name):
            return self.found.setdefault(name, value) == value
        key = (_kind(name), value)
        return self.found.setdefault(name, value) == value and self.taken.setdefault(key, name) == name


def _is_number(name: str) -> bool:
    """Whether a name of a form stands for a number. A constant of a file, with an underscore, is itself."""
    return name.isupper() and not name.startswith("_")


def _kind(name: str) -> str:
    """Variables, attributes and fields may go by the same names."""
    return name.rpartition(".")[0]


def _function(text: str) -> ast.FunctionDef:
    function = _Bare().visit(ast.parse(dedent(text))).body[0]
    assert isinstance(function, ast.FunctionDef)
    return function


class _Bare(ast.NodeTransformer):
    """Without annotations and decorators."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns, node.decorator_list = None, []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return node
        return ast.Assign(targets=[node.target], value=node.value, type_comment=None)


def _spoken(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that do something."""
    return (statement for statement in body if not _is_silent(statement))


def _is_silent(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        return not statement.orelse and all(map(_is_silent, statement.body))
    if isinstance(statement, ast.Expr):
        call = statement.value
        is_said = isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in _QUIET
        return is_said or (isinstance(call, ast.Constant) and isinstance(call.value, str))
    return isinstance(statement, (ast.Import, ast.ImportFrom))
