"""Features of images that are embeddings of tokens: of codes that the images are turned into (Chameleon).

`generate` asks for features once and gives them to the forward; the forward, called alone, asks for them itself. An invertible adapter at
the table would change them in the second way only, so it cannot stand there. Where the features go to a model inside as given
embeddings (Emu3), that one changes all of them in both.
"""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts
from adapter_codegen.parse.syntax import descendants, dotted_name
from adapter_codegen.plan.parts.running import FEATURES

_GETTER = "self.get_input_embeddings"


def embedded_features(base: ClassFacts, table: str) -> cst.Call | None:
    """Where a method that gives features looks tokens up in the table at the path `table`."""
    for name, function in base.functions.items():
        if not FEATURES.fullmatch(name):
            continue
        for node in descendants(function.node.body):
            if isinstance(node, cst.Call) and _is_table(node.func, table):
                return node
    return None


def _is_table(called: cst.BaseExpression, table: str) -> bool:
    if isinstance(called, cst.Call):
        return dotted_name(called.func) == _GETTER
    return dotted_name(called) == f"self.{table}"
