"""`init` prepares what it changes, and changes nothing that it does not prepare.

A model inside of a model, or a layer that stands outside of the stacks, either belongs to the base model that holds the adapters or is
as upstream made it. Half of that runs into errors at the first forward.
"""

from __future__ import annotations

from adapter_runtime.model.base import ModelBaseAdaptersMixin
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
        if isinstance(module, ModelBaseAdaptersMixin) and module not in prepared:
            raise AssertionError(
                f"{path}, a {name}, has the class of a base model and was not prepared as one: it is no part of the whole"
            )
        if isinstance(module, LayerAdaptersMixin) and module not in layers:
            raise AssertionError(f"{path}, a {name}, has the class of a layer and is in no stack of the base model")
