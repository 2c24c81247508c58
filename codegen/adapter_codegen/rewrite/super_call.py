"""``super().f(...)`` in a copied function would find the mixin before upstream's base: it names its class instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import libcst as cst

from adapter_codegen.rewrite.copied import Copied
from adapter_codegen.rewrite.edit import Edit, Operand, Replace


def super_edits(function: Copied) -> Iterator[Edit]:
    for node in function.descendants:
        if (
            isinstance(node, cst.Call)
            and isinstance(node.func, cst.Name)
            and node.func.value == "super"
            and not node.args
        ):
            yield Replace(node, _named(node, function.owner, function.first_parameter))


def _named(call: cst.Call, owner: str, first: str) -> Callable[[Operand], cst.CSTNode]:
    def build(operand: Operand) -> cst.CSTNode:
        return call.with_changes(args=[cst.Arg(cst.Name(owner)), cst.Arg(cst.Name(first))])

    return build
