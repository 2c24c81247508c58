"""How a head class makes the base model that it holds."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts, Submodule


def is_built_as_usual(facts: ModuleFacts, base: str, held: Submodule | None) -> bool:
    """Whether a head class makes its base model as a flexible class does, from the config alone.

    With ``add_pooling_layer=True`` the base model may have a pooler that it is mostly without (GTE).
    """
    known = facts.classes.get(base)
    init = known.functions.get("__init__") if known is not None else None
    if held is None or init is None:
        return True
    defaults = {parameter.name.value: parameter.default for parameter in init.node.params.params}
    _, *options = held.arguments
    return all(_is_default(argument, defaults) for argument in options)


def _is_default(argument: cst.Arg, defaults: dict[str, cst.BaseExpression | None]) -> bool:
    default = defaults.get(argument.keyword.value) if argument.keyword is not None else None
    return default is not None and default.deep_equals(argument.value)
