"""All or nothing: any error inside of `unchanged_on_error` leaves a model and its config as they were.

And whatever happens inside of `in_evaluation`, each module is in its own mode again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from adapter_runtime.contract.protocol import TorchModule
from adapter_runtime.contract.state import ModelAdaptersConfig

_CONTAINERS = (dict, OrderedDict, list, set)  # exactly these: subclasses may not let themselves be refilled

# Attribute of a model that holds modules which are no part of it: token embeddings that are not active, by name.
OUTSIDE = "_stored_embeddings_by_name"


@contextmanager
def unchanged_on_error(model: TorchModule, config: ModelAdaptersConfig) -> Iterator[None]:
    """Restore the class, attributes and children of every module, the configs, and what is trained, if the block raises.

    Containers are refilled, not replaced: handles of hooks keep references to these dicts, and a head shares its config with the
    config of its model. Values of parameters are not copied, except those that hold a merged adapter: whatever else
    changes values must be checked before, or restore them itself.
    """
    modules = list(_modules(model))
    classes = [(module, type(module)) for module in modules]
    refills = [_refill(held) for held in (*modules, *_configs(modules), config)]
    parameters = (own for module in modules for own in module._parameters.values() if own is not None)
    trained = [(parameter, parameter.requires_grad) for parameter in parameters]
    merged = [(tensor, tensor.detach().clone()) for tensor in _merged(modules)]
    try:
        yield
    except BaseException:
        for module, cls in classes:
            module.__class__ = cls
        for refill in refills:
            refill()
        for parameter, is_trained in trained:
            parameter.requires_grad_(is_trained)
        with torch.no_grad():
            for tensor, values in merged:
                tensor.copy_(values)
        raise


def outside_of(module: nn.Module | TorchModule) -> dict[str, nn.Module]:
    """The modules that a model keeps outside of its tree, by name."""
    held: dict[str, nn.Module] = module.__dict__.get(OUTSIDE, {})
    return held


def _modules(model: TorchModule) -> Iterable[nn.Module]:
    """The modules of a model, and those that it keeps outside of its tree: embeddings that are not active."""
    found = dict.fromkeys(model.modules())
    for module in list(found):
        found.update(dict.fromkeys(outside_of(module).values()))
    return found


def _configs(modules: Iterable[nn.Module]) -> Iterable[PreTrainedConfig]:
    """The configs of models that modules refer to, each once."""
    held = (module.__dict__.get("config") for module in modules)
    return {id(config): config for config in held if isinstance(config, PreTrainedConfig)}.values()


def _refill(held: nn.Module | PreTrainedConfig | ModelAdaptersConfig) -> Callable[[], None]:
    """What restores the attributes of an object, and the containers among them: children, parameters, hooks."""
    attributes = dict(held.__dict__)
    # Most containers of a module are empty, and need no copy.
    copies = [(value, _copied(value)) for value in attributes.values() if type(value) in _CONTAINERS and value]

    def refill() -> None:
        held.__dict__.clear()
        held.__dict__.update(attributes)
        for value in attributes.values():
            if type(value) in _CONTAINERS:
                value.clear()
        for value, contents in copies:
            value.extend(contents) if isinstance(value, list) else value.update(contents)

    return refill


def _copied(container: Any) -> Any:
    return (
        dict(container) if isinstance(container, dict) else container.copy()
    )  # an OrderedDict is slow to copy as one


def _merged(modules: Iterable[nn.Module]) -> Iterator[torch.Tensor]:
    """The weights and biases that an adapter is merged into."""
    for module in modules:
        if module.__dict__.get("unmerged") is not None:
            yield from (tensor for tensor in (module.weight, module.bias) if isinstance(tensor, torch.Tensor))


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Within, nothing of `model` draws at random; then each module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
