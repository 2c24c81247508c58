"""Plan and upstream's tree -> the module with the ``...WithAdapters`` classes.

Only the functions that the plan names are copied. Each rule below looks at the sites of one copied function and yields
edits as data (`edit.py`); one driver (`apply.py`) makes them all in one pass, so that sites may nest or share a statement.

Where do I add a new kind of edit? A file with a function ``(function: Copied) -> Iterator[Edit]``, and its entry in `RULES`.
Its inverse goes into ``unedit.py``, which `verify` uses to prove that nothing else was changed.
"""

from __future__ import annotations

from collections.abc import Iterable

import libcst as cst

from adapter_codegen.model import ClassPlan, ModelPlan
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.rewrite.apply import apply
from adapter_codegen.rewrite.copied import Copied
from adapter_codegen.rewrite.edit import Edit, Rule
from adapter_codegen.rewrite.imports import import_block
from adapter_codegen.rewrite.naming import bases_with_adapters, with_adapters
from adapter_codegen.rewrite.own_class import refuse_own_class
from adapter_codegen.rewrite.prefix import prefix_edits
from adapter_codegen.rewrite.residual import residual_edits
from adapter_codegen.rewrite.super_call import super_edits

__all__ = ["RULES", "rewrite_module"]

RULES: tuple[Rule, ...] = (refuse_own_class, super_edits, prefix_edits, residual_edits)


def rewrite_module(facts: ModuleFacts, plan: ModelPlan) -> str:
    """The imports and classes of ``modeling_<model_type>.py``, not yet formatted; "" where no class is copied.

    Raises:
        CodegenError: the plan names a place that is not in the text, or an edit that cannot be made (R-codes).
    """
    classes = cst.Module(body=[_class_with_adapters(facts, plan, entry) for entry in plan.classes])
    if not plan.classes:
        return ""
    return f"{import_block(classes, facts, plan)}\n\n{classes.code}"


def _class_with_adapters(facts: ModuleFacts, plan: ModelPlan, entry: ClassPlan) -> cst.ClassDef:
    functions = [apply(function, _edits(function)) for function in _copied(facts, entry)]
    return cst.ClassDef(
        name=cst.Name(with_adapters(entry.name)),
        bases=[cst.Arg(cst.Name(base)) for base in bases_with_adapters(plan, entry)],
        body=cst.IndentedBlock(body=functions),
        leading_lines=[cst.EmptyLine(indent=False), cst.EmptyLine(indent=False)],
    )


def _copied(facts: ModuleFacts, entry: ClassPlan) -> Iterable[Copied]:
    return (Copied.find(facts, entry, name) for name in entry.functions)


def _edits(function: Copied) -> list[Edit]:
    return [edit for rule in RULES for edit in rule(function)]
