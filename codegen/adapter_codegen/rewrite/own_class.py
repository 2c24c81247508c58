"""What depends on the class that a function is written in, and cannot be copied into another one."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.rewrite.copied import Copied
from adapter_codegen.rewrite.edit import Edit


def refuse_own_class(function: Copied) -> Iterator[Edit]:
    """No edits: this rule only refuses.

    Raises:
        CodegenError: the function uses ``__class__`` or a name that Python mangles with the name of its class (R104).
    """
    for node in function.descendants:
        if isinstance(node, cst.Name) and _depends_on_class(function, node):
            copied = f"{function.owner}.{function.node.name.value}"
            raise Problem.DEPENDS_ON_CLASS.error(function.facts.location(node), name=node.value, function=copied)
    return iter(())


def _depends_on_class(function: Copied, node: cst.Name) -> bool:
    attribute = isinstance(
        function.parents.get(node), cst.Attribute
    )  # x.__class__ is the class of x, wherever it stands
    mangled = node.value.startswith("__") and not node.value.endswith("__")
    return mangled or (node.value == "__class__" and not attribute)
