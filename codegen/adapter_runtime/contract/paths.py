"""Modules by dotted paths."""

from __future__ import annotations

from torch import nn


def child_of(module: nn.Module, name: str) -> nn.Module | None:
    """The child `name` of a module, or None. A number counts elements of a list, from its end if negative (T5's
    feed-forward block is the last of two or of three sublayers)."""
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        return module[int(name)] if -len(module) <= int(name) < len(module) else None
    child = getattr(module, name, None)
    return child if isinstance(child, nn.Module) else None


def expanded(module: nn.Module, path: str) -> list[str]:
    """The paths that a path stands for: "*" is every element of a list. None where there is no such list."""
    before, star, behind = path.partition("*")
    if not star:
        return [path]
    elements = found(module, before.rstrip("."))
    if not isinstance(elements, (nn.ModuleList, nn.Sequential)):
        return []
    return [one for index in range(len(elements)) for one in expanded(module, f"{before}{index}{behind}")]


def found(module: nn.Module | None, path: str) -> nn.Module | None:
    """The module at a dotted path; None where there is none."""
    for name in path.split("."):
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential))
        if module is None or (is_list and not name.lstrip("-").isdigit()):
            return None
        module = child_of(module, name)
    return module
