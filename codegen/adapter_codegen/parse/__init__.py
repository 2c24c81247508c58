"""Upstream's text -> facts (`facts`), by libcst and without running anything.

`parse_module` states what one module says: classes, bases, submodules, functions, imports. `read_auto_mappings` states
which modules and classes a model type has. What any of it means is decided in ``plan``.
"""

from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts, Submodule
from adapter_codegen.parse.module import parse_module

__all__ = ["ClassFacts", "FunctionFacts", "ModuleFacts", "Submodule", "parse_module"]
