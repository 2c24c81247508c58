"""Head classes of users' own, by the identifier under which files name them.

A head is built again from its config when a model or a file is loaded. The config says the type of the head, and a type that
this library does not have is looked up here: nothing that a file names is ever imported.
"""

from __future__ import annotations

from collections.abc import Mapping

from adapter_runtime.errors import InvalidConfigError, nearest
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES

HeadClass = type[PredictionHead]
_registered: dict[str, HeadClass] = {}


def register_custom_head(identifier: str, head_class: HeadClass) -> None:
    """Let all models have heads of `head_class`, and files name them by `identifier`.

    The constructor is called with the model, the name of the head, and the options that the head keeps in its `config`.

    Raises:
        ValueError: the identifier is that of a head of this library.
        TypeError: `head_class` is no subclass of `PredictionHead`.
    """
    check_custom(identifier, head_class)
    _registered[identifier] = head_class


def check_custom(identifier: str, head_class: object) -> None:
    """Check that a head class can be registered.

    Raises:
        ValueError, TypeError: it cannot; see `register_custom_head`.
    """
    if identifier in HEAD_CLASSES:
        raise ValueError(f"{identifier!r} is a type of head that there is already. Choose another identifier.")
    if not (isinstance(head_class, type) and issubclass(head_class, PredictionHead)):
        raise TypeError(f"A head class is a subclass of PredictionHead, not {head_class!r}.")


def custom_head_class(identifier: object, own: Mapping[str, HeadClass]) -> HeadClass:
    """The class that is registered under `identifier`.

    Args:
        own: those that a model has for itself; they come first.

    Raises:
        InvalidConfigError: there is none.
    """
    known = {**_registered, **own}
    if identifier in known:
        return known[str(identifier)]
    raise InvalidConfigError(
        f"There is no head of type {identifier!r}. {nearest(str(identifier), [*HEAD_CLASSES, *known])} If it is one of"
        " your own: register_custom_head(identifier, head_class), before the model or head is loaded."
    )
