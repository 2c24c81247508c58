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


def found(module: nn.Module | None, path: str) -> nn.Module | None:
    """The module at a dotted path; None where there is none."""
    for name in path.split("."):
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential))
        if module is None or (is_list and not name.lstrip("-").isdigit()):
            return None
        module = child_of(module, name)
    return module
