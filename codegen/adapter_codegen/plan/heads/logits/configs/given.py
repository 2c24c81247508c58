"""What a module is given by the one that makes it, by the names of its parameters."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import assigned_attributes, assignment, descendants, dotted_name, statements
from adapter_codegen.plan.flow.modules import local_class


def given_to(facts: ModuleFacts, made: Submodule) -> dict[str, cst.BaseExpression]:
    """Parameter of the class of a submodule -> what its construction gives it, or its default, in the words of each.

    Without those that its ``__init__`` writes to; nothing where several classes may stand there, or a star hides which is which.
    """
    init = _init(_class_of(facts, made))
    if init is None or any(argument.star for argument in made.arguments):
        return {}
    written = {
        dotted_name(target) for node in descendants(init.node) for target in (assignment(node) or ((), None))[0]
    }
    return {name: value for name, value in _bound(init.node.params, made).items() if name not in written}


def kept_as(facts: ModuleFacts, made: Submodule, attribute: str) -> cst.BaseExpression | None:
    """What a submodule keeps as an attribute, if that is what its construction gives it: ``Cap(config.limit)``.

    With ``def __init__(self, limit): self.limit = limit``, and nothing else that sets it. A default of the class is none.
    """
    known = _class_of(facts, made)
    init = _init(known)
    if known is None or init is None:
        return None
    targets = [
        target for function in known.functions.values() for target in assigned_attributes(function.node, attribute)
    ]
    values = [pair[1] for node in statements(init.node.body) if (pair := assignment(node)) and targets == [*pair[0]]]
    if len(values) != 1 or not isinstance(values[0], cst.Name):
        return None
    value = given_to(facts, made).get(values[0].value)
    defaults = [one.default for one in (*init.node.params.params, *init.node.params.kwonly_params)]
    return None if any(value is default for default in defaults) else value


def _class_of(facts: ModuleFacts, made: Submodule) -> ClassFacts | None:
    known = [facts.classes[name] for name in map(local_class, made.classes) if name in facts.classes]
    return known[0] if len(known) == len(made.classes) == 1 else None


def _init(known: ClassFacts | None) -> FunctionFacts | None:
    return known.functions.get("__init__") if known is not None else None


def _bound(parameters: cst.Parameters, made: Submodule) -> dict[str, cst.BaseExpression]:
    plain = [one for one in (*parameters.posonly_params, *parameters.params) if one.name.value != "self"]
    bound = {one.name.value: one.default for one in (*plain, *parameters.kwonly_params) if one.default is not None}
    positional = [argument.value for argument in made.arguments if argument.keyword is None]
    bound |= {one.name.value: value for one, value in zip(plain, positional, strict=False)}
    bound |= {argument.keyword.value: argument.value for argument in made.arguments if argument.keyword is not None}
    return bound
