"""What must hold of every file before it is written. A failure is a defect of this tool, never of upstream or the user.

V101  Python parses
V102  formatting it again changes nothing
V103  what is imported from upstream exists in upstream's text
V104  no name is unresolved
V105  the calls of adapters are exactly the planned ones, each between marker comments
V106  with the edits taken back, a copied function is upstream's, token for token
"""

from __future__ import annotations

import builtins
import symtable
from collections.abc import Iterator, Mapping

import libcst as cst

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.emit.formatting import formatted
from adapter_codegen.model import ClassPlan, Diagnostic, ModelPlan
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.rewrite.markers import CLOSE, OPEN
from adapter_codegen.rewrite.naming import with_adapters
from adapter_codegen.rewrite.shape import shape
from adapter_codegen.rewrite.unedit import NotAnEdit, unedited

MODULE_NAMES = {"__name__", "__package__", "__file__", "__doc__", "__path__", "__spec__"}


def verify_model(facts: ModuleFacts, plan: ModelPlan, files: Mapping[str, str]) -> None:
    """Check the files of one model.

    Raises:
        CodegenError: with every failure that was found.
    """
    failures = list(_general(files))
    if not failures:
        for path, text in _python(files):
            module = cst.parse_module(text)
            failures += _imports(path, module, facts, plan)
            if path.endswith(f"modeling_{plan.package}.py"):
                failures += _classes(path, text, module, facts, plan)
    _raise(failures)


def verify_shared(files: Mapping[str, str]) -> None:
    """Check the files that belong to no single model. Raises what `verify_model` raises."""
    _raise(list(_general(files)))


def _raise(failures: list[Diagnostic]) -> None:
    if failures:
        raise CodegenError(*failures)


def _python(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((path, text) for path, text in files.items() if path.endswith(".py"))


def _general(files: Mapping[str, str]) -> Iterator[Diagnostic]:
    """V101, V102, V104."""
    broken = set()
    for path, text in _python(files):
        try:
            unresolved = undefined_names(text)
        except SyntaxError as error:
            broken.add(path)
            yield Problem.EMITTED_NO_PYTHON.diagnostic(path=path, error=f"{error.msg}, line {error.lineno}")
            continue
        if unresolved:
            yield Problem.UNDEFINED_NAMES.diagnostic(path=path, names=", ".join(unresolved))
    for path, text in files.items():
        if path not in broken and formatted(path, text) != text:
            yield Problem.NOT_STABLE.diagnostic(path=path)


def undefined_names(text: str) -> list[str]:
    """Global names that a module reads and neither it nor Python defines, sorted.

    By Python's own symbol table: a second opinion to the scopes that the imports were worked out with, and fast.
    """
    module = symtable.symtable(text, "<generated>", "exec")
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    defined |= {table.get_name() for table in module.get_children()} | MODULE_NAMES | set(dir(builtins))
    return sorted(set(_global_reads(module)) - defined)


def _global_reads(table: symtable.SymbolTable) -> Iterator[str]:
    top = table.get_type() == "module"
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (top or symbol.is_global()):
            yield symbol.get_name()
    for child in table.get_children():
        yield from _global_reads(child)


def _imports(path: str, module: cst.Module, facts: ModuleFacts, plan: ModelPlan) -> Iterator[Diagnostic]:
    """V103."""
    for statement in module.body:
        for node in statement.body if isinstance(statement, cst.SimpleStatementLine) else ():
            if not isinstance(node, cst.ImportFrom) or node.module is None or isinstance(node.names, cst.ImportStar):
                continue
            if cst.Module([]).code_for_node(node.module) != plan.module:
                continue
            for alias in node.names:
                name = alias.evaluated_name
                if not facts.binds(name):
                    yield Problem.IMPORTS_UNBOUND.diagnostic(path=path, name=name, module=plan.path)


def _classes(path: str, text: str, module: cst.Module, facts: ModuleFacts, plan: ModelPlan) -> Iterator[Diagnostic]:
    """V105 and V106 for every planned class."""
    emitted = {node.name.value: node for node in module.body if isinstance(node, cst.ClassDef)}
    for entry in plan.classes:
        node = emitted.get(with_adapters(entry.name))
        functions = {
            member.name.value: member
            for member in (node.body.body if node else ())
            if isinstance(member, cst.FunctionDef)
        }
        if set(functions) != set(entry.functions):
            yield Problem.OTHER_FUNCTIONS.diagnostic(entry.location, path=path, name=entry.name)
            continue
        for name, function in functions.items():
            yield from _function(path, function, entry, facts.classes[entry.name].functions[name].node)
    if not _markers_pair(text):
        yield Problem.UNPAIRED_MARKERS.diagnostic(path=path)


def _function(
    path: str, emitted: cst.FunctionDef, entry: ClassPlan, upstream: cst.FunctionDef
) -> Iterator[Diagnostic]:
    name = f"{entry.name}.{emitted.name.value}"
    try:
        unmarked = _without_marked(emitted)
        reverted, original = shape(unedited(emitted, entry)), shape(_plain_super(upstream))
    except NotAnEdit as error:
        yield Problem.NO_EDIT.diagnostic(entry.location, path=path, name=name, error=error)
        return
    if stray := _adapter_calls(unmarked, entry):
        yield Problem.UNMARKED.diagnostic(entry.location, path=path, name=name, stray=stray)
    if reverted != original:
        place = next((i for i, pair in enumerate(zip(reverted, original, strict=False)) if pair[0] != pair[1]), -1)
        found, wanted = " ".join(reverted[place : place + 6]), " ".join(original[place : place + 6])
        yield Problem.COPY_DIFFERS.diagnostic(entry.location, path=path, name=name, found=found, wanted=wanted)


def _plain_super(function: cst.FunctionDef) -> cst.FunctionDef:
    """Upstream's function with ``super(X, self)``, which some of it still writes, as ``super()``."""
    reverted = function.visit(_PlainSuper())
    assert isinstance(reverted, cst.FunctionDef)
    return reverted


class _PlainSuper(cst.CSTTransformer):
    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:
        is_super = isinstance(updated_node.func, cst.Name) and updated_node.func.value == "super"
        return updated_node.with_changes(args=[]) if is_super else updated_node


def _without_marked(function: cst.FunctionDef) -> str:
    """The lines of the function that stand outside of marker comments."""
    kept, inside = [], False
    for line in cst.Module([]).code_for_node(function).split("\n"):
        if line.strip() in (OPEN, CLOSE):
            inside = line.strip() == OPEN
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def _adapter_calls(code: str, entry: ClassPlan) -> str:
    hosts = {host for site in entry.residual_sites for host in site.hosts}
    calls = (f".{name}(" for name in (*sorted(hosts), "prepend_prefix", "extend_bias", "hide_prefixes"))
    return next((call for call in calls if call in code), "")


def _markers_pair(text: str) -> bool:
    marks = [line.strip() for line in text.split("\n") if line.strip() in (OPEN, CLOSE)]
    return marks == [OPEN, CLOSE] * (len(marks) // 2)
