"""Names: which ones adapters, fusions and heads may have, as they become names of modules and folders; those of parts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import overload

from torch import nn

from adapter_runtime.errors import AdapterError, InvalidConfigError

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


class Names:
    """An option that names modules of a model, as one name or several. They are kept as a tuple, so that equal choices are equal configs.

    Args:
        what: a name stands for: "a part".
        example: of the option, for messages.
        otherwise: what None means, for messages.
    """

    def __init__(self, what: str, example: str, otherwise: str) -> None:
        self.what, self.example, self.otherwise = what, example, otherwise

    def __set_name__(self, owner: type, name: str) -> None:
        self.option = name

    @overload
    def __get__(self, config: None, owner: type) -> None: ...

    @overload
    def __get__(self, config: object, owner: type) -> tuple[str, ...] | None: ...

    def __get__(self, config: object | None, owner: type) -> tuple[str, ...] | None:
        if config is None:  # asked of the class, by `dataclass`: the default
            return None
        names: tuple[str, ...] | None = vars(config).get(self.option)
        return names

    def __set__(self, config: object, value: str | Sequence[str] | None) -> None:
        vars(config)[self.option] = None if value is None else self._names(value)

    def _names(self, value: str | Sequence[str]) -> tuple[str, ...]:
        """One or several names as a tuple of them, each once.

        Raises:
            InvalidConfigError: these are no names.
        """
        names = (value,) if isinstance(value, str) else value
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise InvalidConfigError(
                f"{self.option} is {value!r}, but must be the name of {self.what}, or a tuple of such: {self.example}."
                f" None = {self.otherwise}."
            )
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, eq=False)
class NamesModules:
    """Base of all configs of adapters: the options of all methods, which `adapters` does not know."""

    _: KW_ONLY
    parts: Names = Names("a part", "parts='language_model', parts=('text', 'audio')", "all parts")
    also_train: Names = Names("a module", "also_train='multi_modal_projector'", "the adapter alone")


# The options that configs of all methods have. They are in files only where they were given.
OF_ALL_METHODS = tuple(entry.name for entry in fields(NamesModules))
