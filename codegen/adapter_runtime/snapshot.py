"""All or nothing: any error inside of `unchanged_on_error` leaves the modules of a model as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from adapter_runtime.adapters_config import ModelAdaptersConfig


@contextmanager
def unchanged_on_error(model: nn.Module, config: ModelAdaptersConfig) -> Iterator[None]:
    """Restore the class, attributes and children of every module, and the names of adapters, if the block raises.

    Values of parameters are not copied: what changes them must be checked before.
    """
    modules = [(module, type(module), _copy(module.__dict__)) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    names = _copy(config.__dict__)
    try:
        yield
    except BaseException:
        for module, cls, attributes in modules:
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        config.__dict__.update(names)
        raise


def _copy(attributes: dict[str, Any]) -> dict[str, Any]:
    """A copy of the attributes of an object, and of the dicts among them: children, parameters, hooks."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in attributes.items()}
