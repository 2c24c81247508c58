"""How a head class makes the base model that it holds, or holds what that has."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import literal_keys

_TIED = "_tied_weights_keys"


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


def tied_apart(head: ClassFacts, base: ClassFacts | None) -> tuple[str, ...]:
    """Weights that a class which holds the modules of a base model itself ties to others, and the base model does not (UDOP's biases).

    A file of such a class lacks them, and the base model would begin with random ones.
    """
    if base is None:
        return ()
    theirs = {*literal_keys(base.attributes.get(_TIED))}
    mine = literal_keys(head.attributes.get(_TIED))
    return tuple(key for key in mine if key not in theirs and key.partition(".")[0] in base.submodules)
