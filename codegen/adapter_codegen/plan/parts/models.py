"""Which classes of a file are models of their own, and with which config."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import dotted_name, statements


def is_model(facts: ModuleFacts, class_name: str) -> bool:
    """Whether a class is a model of its own, with a config, and not a part of one."""
    known = facts.classes.get(class_name)
    return known is not None and any(name.endswith("PreTrainedModel") for name in known.lineage)


def has_other_config(facts: ModuleFacts, inner: ClassFacts, outer: ClassFacts) -> bool:
    """Whether a model takes a config of another class than the model around it."""
    own = config_class(facts, outer)
    return bool(own) and config_class(facts, inner) not in {"", own}


def config_class(facts: ModuleFacts, known: ClassFacts) -> str:
    """The annotation of ``__init__``'s config, or of the class attribute; "" where there is none."""
    init = known.functions.get("__init__")
    for param in init.node.params.params if init else ():
        if param.name.value == "config" and param.annotation is not None:
            return facts.code(param.annotation.annotation)
    for name in known.lineage:
        body = statements(facts.classes[name].node.body) if name in facts.classes else ()
        for node in body:
            if isinstance(node, cst.AnnAssign) and dotted_name(node.target) == "config":
                return facts.code(node.annotation.annotation)
    return ""
