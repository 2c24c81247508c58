"""Questions about the text around a core: what stands beside it, and what is read behind it."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import descendants
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Value

_COMPREHENSIONS = (cst.ListComp, cst.GeneratorExp, cst.DictComp)


def is_in_comprehension(call: Value) -> bool:
    if call.statement is None:
        return False
    around = (node for node in descendants(call.statement) if isinstance(node, _COMPREHENSIONS))
    return any(node is call.node for comprehension in around for node in descendants(comprehension))


def is_in_other_branch(
    facts: ModuleFacts, function: cst.FunctionDef, statement: cst.CSTNode, other: cst.CSTNode
) -> bool:
    """Whether two statements stand in different branches of one ``if``, the first one in an earlier branch."""
    line, other_line = facts.location(statement).line, facts.location(other).line
    for node in descendants(function):
        if isinstance(node, cst.If) and node.orelse is not None:
            body, rest = facts.location(node.body), facts.location(node.orelse)
            if body.line <= line <= body.end_line < other_line and rest.line <= other_line <= rest.end_line:
                return True
    return False


def may_be_skipped(scene: Scene, call: Value | None) -> bool:
    """Whether a call, or one on the way to it from the traced class, stands in an ``if`` that has no other branch."""
    while call is not None:
        frame = call.frame
        known = scene.facts.classes.get(frame.class_name)
        function = known.functions[frame.function].node if known else scene.facts.functions[frame.function]
        line = scene.facts.location(call.node).line
        for node in descendants(function):
            if isinstance(node, cst.If) and node.orelse is None:
                body = scene.facts.location(node.body)
                if body.line <= line <= body.end_line:
                    return True
        call = scene.flow.calls.get(frame)
    return False


def required_names(scene: Scene) -> set[str]:
    """Names of which the traced function raises where they are None: ``if x is None: raise ValueError(...)``."""
    root = scene.flow.root
    found: set[str] = set()
    for node in descendants(scene.facts.classes[root.class_name].functions[root.function].node):
        if isinstance(node, cst.If) and any(isinstance(inner, cst.Raise) for inner in descendants(node.body)):
            name, _, rest = scene.facts.code(node.test).partition(" is ")
            if rest == "None":
                found.add(name)
    return found


def is_read_behind(facts: ModuleFacts, function: cst.FunctionDef, name: str, statement: cst.CSTNode | None) -> bool:
    """Whether a name is read in a line behind a statement (None: anywhere)."""
    last = facts.location(statement).end_line if statement is not None else 0
    reads = _Reads(name)
    function.body.visit(reads)
    return any(facts.location(node).line > last for node in reads.found)


class _Reads(cst.CSTVisitor):
    """Where a name stands that is neither bound there nor the keyword of an argument."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.found: list[cst.Name] = []

    def visit_Name(self, node: cst.Name) -> None:
        if node.value == self._name:
            self.found.append(node)

    def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
        return not isinstance(node.target, cst.Name)

    def visit_Arg(self, node: cst.Arg) -> bool:
        node.value.visit(self)
        return False
