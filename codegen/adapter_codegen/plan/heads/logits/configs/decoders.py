"""Of which config a decoder is made that upstream's ``get_decoder()`` finds by the names of modules."""

from __future__ import annotations

from adapter_codegen.parse.facts import ClassFacts
from adapter_codegen.parse.syntax import dotted_name
from adapter_codegen.plan.heads.logits.factors import OF_DECODER, config_field

_NAMES = ("language_model", "text_model", "decoder", "text_decoder")  # in the order of upstream's method
_WHOLE = "config"


def decoder_config(head: ClassFacts, base: ClassFacts | None) -> str | None:
    """The path of that config in the one of a class with a head; None where the text does not show it.

    Args:
        base: the base model, which is asked where the class itself has no module of such a name.
    """
    owners = [known for known in (head, base) if known is not None]
    if any(OF_DECODER in known.functions for known in owners):
        return None
    found = [known.submodules[name] for known in owners for name in _NAMES if name in known.submodules]
    first = found[0] if found else None
    if first is None or not first.arguments or first.arguments[0].keyword is not None:
        return None
    name = dotted_name(first.arguments[0].value)
    return "" if name == _WHOLE else config_field(name) or None
