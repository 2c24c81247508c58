"""Text of one upstream module -> `ModuleFacts`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import libcst as cst

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Location
from adapter_codegen.parse.construction import Built, Constructor, Scope, as_submodules
from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts
from adapter_codegen.parse.imports import imported_names
from adapter_codegen.parse.syntax import assignment, dotted_name, statements


@lru_cache(maxsize=4)  # plan and rewrite ask for the same module, and for its positions, one after the other
def parse_module(text: str, path: str) -> ModuleFacts:
    """The facts that the text of an upstream module states.

    Args:
        text: the whole module.
        path: relative to the transformers package: "models/llama/modeling_llama.py". Relative imports start there.

    Raises:
        CodegenError: the text is not Python that libcst knows (S101).
    """
    try:
        tree = cst.parse_module(text)
    except cst.ParserSyntaxError as error:
        raise _syntax_error(error, path) from error
    top = list(_top_level(tree))
    functions = {node.name.value: node for node in top if isinstance(node, cst.FunctionDef)}
    scope = Scope(
        classes={node.name.value: node for node in top if isinstance(node, cst.ClassDef)},
        functions=functions,
        assignments=_assignments(top),
        imports=imported_names(top, path),
    )
    classes = _Classes(scope).facts()
    return ModuleFacts(path, text, tree, classes, functions, scope.assignments, scope.imports)


def _syntax_error(error: cst.ParserSyntaxError, path: str) -> CodegenError:
    line, column = error.raw_line, error.raw_column
    return Problem.NOT_PYTHON.error(Location(path, line, column, line, column + 1), error=error.message)


def _top_level(tree: cst.Module) -> Iterator[cst.CSTNode]:
    """Statements of the module, those under a top-level if, try or with included."""
    pending: list[cst.CSTNode] = list(reversed(tree.body))
    while pending:
        node = pending.pop()
        if isinstance(node, cst.SimpleStatementLine):
            yield from node.body
        elif isinstance(node, cst.If | cst.Try | cst.With | cst.Else | cst.ExceptHandler):
            pending.extend(reversed(list(_branches(node))))
        else:
            yield node


def _branches(node: cst.If | cst.Try | cst.With | cst.Else | cst.ExceptHandler) -> Iterator[cst.CSTNode]:
    yield from node.body.body
    if isinstance(node, cst.Try):
        yield from node.handlers
    if isinstance(node, cst.If | cst.Try) and node.orelse is not None:
        yield node.orelse


def _assignments(nodes: list[cst.CSTNode]) -> dict[str, cst.BaseExpression]:
    found: dict[str, cst.BaseExpression] = {}
    for node in nodes:
        targets, value = assignment(node) or ((), None)
        for target in targets:
            if isinstance(target, cst.Name) and value is not None:
                found[target.value] = value
    return found


class _Classes:
    """Resolves the classes of a module, each after those it inherits from."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.done: dict[str, ClassFacts] = {}
        self.built: dict[str, Mapping[str, Built]] = {}

    def facts(self) -> dict[str, ClassFacts]:
        return {name: self._class(name) for name in self.scope.classes}

    def _class(self, name: str) -> ClassFacts:
        if name not in self.done:
            node = self.scope.classes[name]
            bases = tuple(_base_name(base) for base in node.bases)
            parents = [self._class(base) for base in bases if base in self.scope.classes and base != name]
            self.done[name] = self._with_parents(node, bases, parents)
        return self.done[name]

    def _with_parents(self, node: cst.ClassDef, bases: tuple[str, ...], parents: list[ClassFacts]) -> ClassFacts:
        name = node.name.value
        mro = _linearise(name, bases, {parent.name: parent.lineage for parent in parents})
        functions: dict[str, FunctionFacts] = {}
        attributes: dict[str, cst.BaseExpression] = {}
        for ancestor in reversed(mro):
            if ancestor != name and ancestor in self.done:
                functions.update(_own(self.done[ancestor].functions, ancestor))
                attributes.update(_assignments(list(statements(self.scope.classes[ancestor].body))))
        functions.update(_functions(node))
        attributes.update(_assignments(list(statements(node.body))))
        self.built[name] = self._construct(name, mro, functions)
        return ClassFacts(name, node, bases, mro, as_submodules(self.built[name]), functions, attributes)

    def _construct(
        self, name: str, mro: tuple[str, ...], functions: Mapping[str, FunctionFacts]
    ) -> Mapping[str, Built]:
        """The submodules after ``__init__``, which runs its parent's first if it says so."""
        init = functions.get("__init__")
        if init is None:
            return {}
        if init.owner != name:
            return self.built[init.owner]
        constructor = Constructor(self.scope, lambda method: functions[method].node if method in functions else None)
        if _calls_parent(init.node, name):
            parent = next((base for base in mro[1:] if "__init__" in _defined(self.scope.classes.get(base))), "")
            constructor.submodules.update(self.built.get(parent, {}))
        constructor.walk(init.node)
        return constructor.submodules


def _base_name(base: cst.Arg) -> str:
    value = base.value.value if isinstance(base.value, cst.Subscript) else base.value  # OrderedDict[str, int]
    return dotted_name(value)


def _functions(node: cst.ClassDef) -> dict[str, FunctionFacts]:
    owner = node.name.value
    return {
        statement.name.value: FunctionFacts(statement.name.value, statement, _parameters(statement.params), owner)
        for statement in statements(node.body)
        if isinstance(statement, cst.FunctionDef)
    }


def _defined(node: cst.ClassDef | None) -> set[str]:
    return {s.name.value for s in statements(node.body) if isinstance(s, cst.FunctionDef)} if node else set()


def _own(functions: Mapping[str, FunctionFacts], owner: str) -> dict[str, FunctionFacts]:
    return {name: function for name, function in functions.items() if function.owner == owner}


def _parameters(params: cst.Parameters) -> tuple[str, ...]:
    found = [*params.posonly_params, *params.params]
    found += [params.star_arg] if isinstance(params.star_arg, cst.Param) else []
    found += [*params.kwonly_params, *([params.star_kwarg] if params.star_kwarg else [])]
    return tuple(param.name.value for param in found if param.name.value != "self")


def _linearise(name: str, bases: tuple[str, ...], known: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """C3, in which a base from outside the module is a class without bases."""
    pending = [list(known.get(base, (base,))) for base in bases] + [list(bases)]
    result = [name]
    while any(pending):
        pending = [chain for chain in pending if chain]
        tails = {other for chain in pending for other in chain[1:]}
        head = next((chain[0] for chain in pending if chain[0] not in tails), pending[0][0])
        result.append(head)
        pending = [[other for other in chain if other != head] for chain in pending]
    return tuple(result)


def _calls_parent(init: cst.FunctionDef, name: str) -> bool:
    """Whether the ``__init__`` of class `name` runs its parent's; ``super(Parent, self)`` skips the parent."""
    for statement in statements(init.body):
        call = statement.value if isinstance(statement, cst.Expr) else None
        if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
            continue
        target = call.func.value
        if call.func.attr.value == "__init__" and isinstance(target, cst.Call) and dotted_name(target.func) == "super":
            return not target.args or dotted_name(target.args[0].value) == name
    return False
