"""Upstream's text -> facts (`facts`), by libcst and without running anything.

`parse_module` states what one module says: classes, bases, submodules, functions, imports. `read_auto_mappings` states
which modules and classes a model type has. What any of it means is decided in ``plan``.
"""

from adapter_codegen.parse.automappings import AutoMappings, ModelEntry, read_auto_mappings
from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts, Submodule
from adapter_codegen.parse.module import parse_module

__all__ = [
    "AutoMappings",
    "ClassFacts",
    "FunctionFacts",
    "ModelEntry",
    "ModuleFacts",
    "Submodule",
    "parse_module",
    "read_auto_mappings",
]
