"""`init` prepares what it changes, and changes nothing that it does not prepare.

A model inside of a model, or a layer that stands outside of the stacks, either belongs to the base model that holds the adapters or is
as upstream made it. Half of that runs into errors at the first forward. A model between the base model and a part of it, without layers of
its own, has a class of ours so that it can be called in the context of the whole.
"""

from __future__ import annotations

from torch import nn

from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.init.finding import lacks_layers
from adapter_runtime.model.layer import LayerAdaptersMixin
from conformance.adapted import initialised
from conformance.subjects import Subject


def nothing_is_half_prepared(subject: Subject) -> None:
    """Every model and layer with a class of ours is that of the base model, or one of its layers."""
    model = initialised(subject)
    base = model.adapters_base
    layers = {layer for _, layer in base.iter_layers()}
    prepared = {base, *(base.get_submodule(part) for part in base.adapter_parts())}
    for part in prepared:
        if part.adapters_base is not base:
            raise AssertionError(
                f"{type(part).__name__} is a part of a {type(base).__name__}, to which its adapters do not belong"
            )
    for path, module in model.named_modules():
        name = type(module).__name__
        is_model = isinstance(module, ModelBaseAdaptersMixin)
        if is_model and module not in prepared and not stands_between(module, base, prepared):
            raise AssertionError(
                f"{path}, a {name}, has the class of a base model and was not prepared as one: it is no part of the whole"
            )
        if isinstance(module, LayerAdaptersMixin) and module not in layers:
            raise AssertionError(f"{path}, a {name}, has the class of a layer and is in no stack of the base model")


def stands_between(module: nn.Module, base: nn.Module, parts: set[nn.Module]) -> bool:
    """Whether a model belongs to `base`, has no layers but those of models in it, and has one of the parts of `base` in it."""
    is_of_base = getattr(module, "adapters_base", None) is base
    return is_of_base and lacks_layers(module) and not parts.isdisjoint(module.modules())
