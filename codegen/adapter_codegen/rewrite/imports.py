"""The imports of a generated modeling module: exactly the names that its classes use, from where they come."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable

import libcst as cst
from libcst.metadata import MetadataWrapper, ScopeProvider

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import ModelPlan
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.imports import import_statement
from adapter_codegen.rewrite.naming import ATTENTION_MIXIN, BOTTLENECK_MIXIN, RUNTIME, mixins

PLAIN = {
    *sys.stdlib_module_names,
    "torch",
}  # imported from where upstream has them; all else through upstream's module


def unresolved_names(module: cst.Module) -> list[str]:
    """Names that a module reads and neither it nor Python defines, sorted."""
    scopes = set(MetadataWrapper(module, unsafe_skip_copy=True).resolve(ScopeProvider).values())
    accesses = [access for scope in scopes if scope is not None for access in scope.accesses if not access.referents]
    return sorted({access.node.value for access in accesses if isinstance(access.node, cst.Name)})


def import_block(classes: cst.Module, facts: ModuleFacts, plan: ModelPlan) -> str:
    """The import statements for `classes`.

    Raises:
        CodegenError: a name is bound nowhere in upstream's module (R401).
    """
    ours = {ATTENTION_MIXIN: RUNTIME, BOTTLENECK_MIXIN: RUNTIME}
    ours |= dict.fromkeys(mixins(plan).values(), f".mixin_{plan.package}")
    groups: dict[int, list[str]] = defaultdict(list)  # standard library, torch, upstream, runtime, mixins
    members: dict[str, set[str]] = defaultdict(set)
    for name in unresolved_names(classes):
        origin = facts.imports.get(name, "")
        top = origin.split(".")[0]
        if name in ours:
            members[ours[name]].add(name)
        elif top in PLAIN:
            groups[1 if top == "torch" else 0].append(import_statement(name, origin))
        elif facts.binds(name):
            members[plan.module].add(name)
        else:
            raise _unbound(name, plan)
    for module, names in members.items():
        groups[2 if module == plan.module else 4 if module.startswith(".") else 3].append(
            f"from {module} import ({', '.join(sorted(names))})"
        )
    return "\n\n".join("\n".join(_sorted(groups[group])) for group in sorted(groups))


def _sorted(statements: Iterable[str]) -> list[str]:
    """``import x`` before ``from x import y``, each by name: what isort and ruff keep."""
    return sorted(statements, key=lambda statement: (statement.startswith("from "), statement))


def _unbound(name: str, plan: ModelPlan) -> CodegenError:
    return Problem.UNBOUND_NAME.error(path=plan.path, name=name)
