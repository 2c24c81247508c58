"""``print(model)``: room for adapters shows once an adapter is in it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Room(Protocol):
    """A module that exists to hold adapters, and may be empty."""

    def is_vacant(self) -> bool:
        """Whether there is nothing in the module that upstream's model would not have."""


class ShowsOccupiedRoom:
    """Base of modules with room for adapters among their children.

    Only what is shown changes. The children, and with them the keys of the state dict, are the same with and without
    adapters.
    """

    def __repr__(self) -> str:
        held: dict[str, nn.Module | None] = self.__dict__["_modules"]
        children = {key: child for key, child in held.items() if child is None or not _is_vacant(child)}
        if len(children) == len(held):
            return super().__repr__()
        shown = object.__new__(type(self))  # a view of this module: nothing is copied, and nothing here changes
        shown.__dict__.update(self.__dict__, _modules=children)
        return super(ShowsOccupiedRoom, shown).__repr__()


def _is_vacant(module: nn.Module) -> bool:
    if isinstance(module, Room):
        return module.is_vacant()
    return type(module) is nn.ModuleDict and len(module) == 0
