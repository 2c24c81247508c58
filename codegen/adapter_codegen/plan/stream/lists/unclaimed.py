"""Where the layers of a list may attend in which none was recognised: the softmaxes in them, and why each may be no attention core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Diagnostic
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import descendants, dotted_name
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import ancestors
from adapter_codegen.plan.flow.walks import called
from adapter_codegen.plan.stream.additions.by_class import is_product_of_activations

_NO_PRODUCT = ": no two tensors are multiplied in front of it, as queries and keys are"
_CONVOLVES = (
    ": what it weighs are maps, with the channels in front of the positions, which it projects by convolutions"
)


def unclaimed_softmaxes(facts: ModuleFacts, layers: Iterable[str]) -> Iterator[Diagnostic]:
    """The softmaxes in layers and in all that they hold.

    Args:
        layers: the classes of a list, in none of which a layer was recognised.
    """
    kinds = Kinds(facts)
    for known in _reached(facts, layers):
        for node in _softmaxes(known):
            why = _why(facts, kinds, known, node)
            yield Problem.SOFTMAX_UNCLAIMED.diagnostic(facts.location(node), name=known.name, why=why)


def _reached(facts: ModuleFacts, classes: Iterable[str]) -> list[ClassFacts]:
    """The classes of the file, and those that modules in them may have, each once."""
    found: dict[str, ClassFacts] = {}
    todo = list(classes)
    while todo:
        known = facts.classes.get(local_class(todo.pop(0)))
        if known is not None and known.name not in found:
            found[known.name] = known
            todo += [name for submodule in known.submodules.values() for name in submodule.classes]
    return list(found.values())


def _softmaxes(known: ClassFacts) -> Iterator[cst.Call]:
    """``F.softmax(x)`` and ``x.softmax()`` in the functions of a class itself."""
    for function in known.functions.values():
        for node in descendants(function.node) if function.owner == known.name else ():
            func = node.func if isinstance(node, cst.Call) else None
            if isinstance(func, cst.Attribute) and func.attr.value == "softmax" and dotted_name(func.value) != "self":
                assert isinstance(node, cst.Call)
                yield node


def _why(facts: ModuleFacts, kinds: Kinds, known: ClassFacts, node: cst.Call) -> str:
    """Why a softmax may be none of an attention core; "" where the text does not show it."""
    held = {kinds.of(s.classes) for inner in _reached(facts, [known.name]) for s in inner.submodules.values()}
    if Kind.CONVOLUTION in held and Kind.LINEAR not in held:
        return _CONVOLVES
    try:
        flow = trace(facts, known.name)
    except TooLarge:
        return ""
    weighed = next((value for value in flow.values if value.node is node), None) if flow is not None else None
    if weighed is None:
        return ""
    before = ancestors(weighed).values()
    return "" if any(is_product_of_activations(one) or called(one, "einsum") for one in before) else _NO_PRODUCT
