"""What a base model returns: whether there are last hidden states among it, which every flexible head reads."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.parse.syntax import descendants, dotted_name

_STATES = "last_hidden_state"


def gives_states(facts: ModuleFacts, class_name: str) -> bool:
    """Whether the forward may give last hidden states. It gives none where it only makes outputs of classes of the file without
    them: LXMERT's has those of two streams, by names of their own."""
    known = facts.classes.get(class_name)
    forward = known.functions.get("forward") if known is not None else None
    nodes = descendants(forward.node) if forward is not None else ()
    returned = [node.value for node in nodes if isinstance(node, cst.Return) and isinstance(node.value, cst.Call)]
    made = [call for call in returned if dotted_name(call.func) in facts.classes]
    return not made or any(map(_names_states, made))


def _names_states(output: cst.Call) -> bool:
    """Without keywords, nothing is known."""
    names = [argument.keyword.value for argument in output.args if argument.keyword is not None]
    return _STATES in names or len(names) < len(output.args)
