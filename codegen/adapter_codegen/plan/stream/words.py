"""Whether a model names a table of words, from which a head that predicts words starts."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import assignment, dotted_name, self_attribute, statements
from adapter_codegen.plan.flow.modules import find_submodule, local_class

# What no table of words is: a parameter (Perceiver's latents), and a list of tables, of several books of codes (MusicGen), from which no one
# projection to words starts.
_NO_TABLE = frozenset({"torch.nn.Parameter", "torch.nn.ModuleList"})


def may_name_words(facts: ModuleFacts, base_class: str) -> bool:
    """Whether `get_input_embeddings` may give a table of words. Not where it ends in an error, or gives what is none (`_NO_TABLE`)."""
    base = facts.classes.get(base_class)
    getter = base.functions.get("get_input_embeddings") if base is not None else None
    body = getter.node.body.body if getter is not None else ()
    last = body[-1].body[0] if body and isinstance(body[-1], cst.SimpleStatementLine) else None
    if base is None or isinstance(last, cst.Raise):
        return base is None
    path = dotted_name(last.value) if isinstance(last, cst.Return) and last.value is not None else ""
    return not path.startswith("self.") or not _is_no_table(facts, base, path.removeprefix("self."))


def _is_no_table(facts: ModuleFacts, known: ClassFacts, path: str) -> bool:
    """Whether a path leads to what a constructor makes as one of `_NO_TABLE`."""
    first, _, rest = path.partition(".")
    if not rest:
        return any(first in _made_otherwise(facts, name) for name in known.lineage)
    submodule = find_submodule(facts, known.lineage, first)
    inner = [
        facts.classes[name]
        for name in map(local_class, submodule.classes if submodule else ())
        if name in facts.classes
    ]
    return bool(inner) and all(_is_no_table(facts, owned, rest) for owned in inner)


def _made_otherwise(facts: ModuleFacts, class_name: str) -> set[str]:
    known = facts.classes.get(class_name)
    built = known.functions.get("__init__") if known is not None else None
    found = (assignment(node) for node in (statements(built.node.body) if built is not None else ()))
    return {
        self_attribute(target)
        for entry in found
        if entry is not None
        and isinstance(entry[1], cst.Call)
        and facts.origin(dotted_name(entry[1].func)) in _NO_TABLE
        for target in entry[0]
    }
