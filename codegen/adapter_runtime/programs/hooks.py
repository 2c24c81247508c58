"""Hooks of modules: keeping accelerate's alive when a class changes, and taking away our own."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from torch import nn


def patch_forward(module: nn.Module) -> None:
    """Let a hook of accelerate call the forward of the module's class as it is now.

    ``accelerate.hooks.add_hook_to_module`` puts a wrapper into ``module.forward`` and keeps the forward that it found,
    bound, in ``module._old_forward``. Changing ``module.__class__`` reaches neither.
    """
    if "_old_forward" in module.__dict__:
        module._old_forward = type(module).forward.__get__(module)


def remove_hooks(module: nn.Module, is_ours: Callable[[Hashable], bool]) -> None:
    """Remove the forward hooks and pre-hooks of a module for which `is_ours` is true."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if is_ours(hook)]:
            del hooks[key]
            for options in (
                module._forward_pre_hooks_with_kwargs,
                module._forward_hooks_with_kwargs,
                module._forward_hooks_always_called,
            ):
                options.pop(key, None)
