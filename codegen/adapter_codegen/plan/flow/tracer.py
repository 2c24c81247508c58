"""Follow definitions and uses through a forward and the forwards that it calls.

`trace` walks over the statements once, keeps what each name is bound to, and enters the forwards of submodules whose class is
in the same file, helper methods and module-level functions. Conditions are not evaluated: see `statements`.
"""

from __future__ import annotations

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.flow.activation import Activation, Arguments, Rules
from adapter_codegen.plan.flow.expressions import evaluate
from adapter_codegen.plan.flow.statements import run_function
from adapter_codegen.plan.flow.values import Flow, Frame

RULES = Rules(evaluate, run_function)


def trace(facts: ModuleFacts, class_name: str, function: str = "forward") -> Flow | None:
    """The graph of a method of a class; None where the class has no such method in this file.

    Raises:
        TooLarge: the graph has more than `MAX_VALUES` values.
    """
    entry = facts.classes[class_name].functions.get(function)
    if entry is None:
        return None
    flow = Flow(Frame(class_name, function, entry.owner, "", 0))
    activation = Activation(facts, flow, flow.root, entry.node, (class_name,), RULES)
    flow.returned = run_function(activation, Arguments())
    return flow


def trace_function(facts: ModuleFacts, name: str) -> Flow:
    """The graph of a function of the module.

    Raises:
        TooLarge: as for `trace`.
    """
    flow = Flow(Frame("", name, "", "", 0))
    activation = Activation(facts, flow, flow.root, facts.functions[name], (), RULES)
    flow.returned = run_function(activation, Arguments())
    return flow
