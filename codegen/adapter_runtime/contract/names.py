"""Which names adapters, fusions and heads may have: they become names of modules and folders."""

from __future__ import annotations

from torch import nn

from adapter_runtime.errors import AdapterError

_FORBIDDEN = frozenset('./\\:*?"<>|\0')
_RESERVED = nn.ModuleDict()


class InvalidNameError(AdapterError, ValueError):
    """A name that cannot be the name of an adapter or a head."""


def check_name(name: object, kind: str = "adapter") -> str:
    """Return `name` if it can name a module and a folder.

    Raises:
        InvalidNameError: it is no string, is empty, holds a separator, a dot or a control character, or is an attribute
            of the containers of modules ("keys").
    """
    if not isinstance(name, str) or not name:
        raise InvalidNameError(f"The name of {_article(kind)} is a non-empty string, not {name!r}.")
    bad = sorted({char for char in name if char in _FORBIDDEN or not char.isprintable()})
    if bad:
        shown = " ".join(map(repr, bad))
        raise InvalidNameError(f"The {kind} name {name!r} contains {shown}. Names become module names and folders.")
    if hasattr(_RESERVED, name):
        raise InvalidNameError(f"{name!r} is an attribute of torch's modules and cannot name {_article(kind)}.")
    return name


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
