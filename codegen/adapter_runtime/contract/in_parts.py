"""The option `parts` of all adapter configs: into which parts of a model made of several an adapter goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import overload

from adapter_runtime.errors import InvalidConfigError


class PartNames:
    """The names of parts, given as one or several. They are kept as a tuple, so that equal choices are equal configs."""

    @overload
    def __get__(self, config: None, owner: type) -> None: ...

    @overload
    def __get__(self, config: object, owner: type) -> tuple[str, ...] | None: ...

    def __get__(self, config: object | None, owner: type) -> tuple[str, ...] | None:
        if config is None:  # asked of the class, by `dataclass`: the default
            return None
        names: tuple[str, ...] | None = vars(config).get("parts")
        return names

    def __set__(self, config: object, value: str | Sequence[str] | None) -> None:
        vars(config)["parts"] = None if value is None else _names(value)


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    """One or several names as a tuple of them, each once.

    Raises:
        InvalidConfigError: these are no names.
    """
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise InvalidConfigError(
            f"parts is {value!r}, but must be the name of a part, or a tuple of such: parts='language_model', parts=('text', 'audio')."
            " None = all parts."
        )
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, eq=False)
class InParts:
    """Base of what can be in some parts of a model made of several."""

    _: KW_ONLY
    parts: PartNames = PartNames()
