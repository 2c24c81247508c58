"""Where in a model the base model is that classes were generated for, and of which models it is made."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.contract.paths import found
from adapter_runtime.contract.registry import load_class, registered
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.parts.composite import ModelUsingSubmodelsAdaptersMixin
from adapter_runtime.model.parts.stacks import layers_in

logger = logging.getLogger(__name__)


class Root(NamedTuple):
    """A base model, and where in it the layers are."""

    base: PreTrainedModel
    # Paths of the models that it is made of; "" = layers of its own. Empty: it is one model.
    parts: tuple[str, ...] = ()


def qualified_name(cls: type) -> str:
    """``transformers.models.llama.modeling_llama.LlamaModel``"""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_covered(module: nn.Module) -> bool:
    """Whether `module` is a whole model whose class has a generated mixin, or has it already."""
    return isinstance(module, ModelBaseAdaptersMixin) or _mixin_of(module) is not None


def _mixin_of(module: nn.Module) -> type[ModelBaseAdaptersMixin] | None:
    """What was generated for the class of a whole model; None where nothing was, or it is no whole model."""
    if not isinstance(module, PreTrainedModel):
        return None
    config: PreTrainedConfig = module.config
    registry, name = registered().of_type(config.model_type), qualified_name(type(module))
    ours = registry.with_adapters.get(name) or registry.model_mixins.get(name)
    generated = load_class(ours) if ours is not None else object
    return generated if issubclass(generated, ModelBaseAdaptersMixin) else None


def lacks_layers(base: nn.Module) -> bool:
    """Whether the class of a model says that all of its layers are those of models inside of it."""
    mixin = _mixin_of(base)
    return mixin is not None and issubclass(mixin, ModelUsingSubmodelsAdaptersMixin) and not mixin.layer_stacks


def find_root(model: PreTrainedModel) -> Root:
    """The base model that `init` turns: `model`, what upstream calls its base model, or the one model that it holds.

    Where classes were generated for none of these, and the model holds several that have such, it is made of those. Where it
    holds none, what upstream calls its base model is given.
    """
    for candidate in (model, model.base_model):
        if is_covered(candidate):
            return Root(candidate, _stated_parts(candidate))
    parts = _in_order(model, dict(_covered_in(model, "")))
    if not parts:
        return Root(model.base_model)
    if len(parts) == 1 and "." not in parts[0]:
        _warn_of_others(model, parts[0])
        return Root(model.get_submodule(parts[0]))
    inner = model.base_model
    if inner is not model:
        path = next(name for name, module in model.named_modules() if module is inner)
        if all(part.startswith(f"{path}.") for part in parts):
            return Root(inner, tuple(part.removeprefix(f"{path}.") for part in parts))
    return Root(model, parts)


def _stated_parts(base: PreTrainedModel) -> tuple[str, ...]:
    """The parts of a model for whose class a mixin was generated; none where it is one model."""
    parts = dict(_covered_in(base, ""))
    return () if set(parts) == {""} else _in_order(base, parts)


def _covered_in(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The models in a module whose classes have mixins, with their paths; itself too, where it has layers of its own, which upstream's
    config may leave out.

    Args:
        path: of the module.
    """
    mixin = _mixin_of(module)
    if mixin is None:
        for name, child in module.named_children():
            yield from _covered_in(child, f"{path}.{name}".lstrip("."))
        return
    submodels = mixin.submodels if issubclass(mixin, ModelUsingSubmodelsAdaptersMixin) else ()
    own = mixin.layer_stacks
    if not submodels or any(True for stack in own for _ in layers_in(module, stack)):
        yield path, module
    for name in submodels:
        inner = found(module, name)
        if inner is not None and not any(stack.path.startswith(f"{name}.") for stack in own):
            yield from _covered_in(inner, f"{path}.{name}".lstrip("."))


def _in_order(root: nn.Module, parts: dict[str, nn.Module]) -> tuple[str, ...]:
    """The paths of parts, each model once, in the order in which upstream registers their layers."""
    positions = {module: position for position, module in enumerate(root.modules())}
    unique = {
        module: path for path, module in reversed(parts.items())
    }  # one that is held twice counts where it comes first
    first = {path: positions[_first_layer(module)] for module, path in unique.items()}
    return tuple(sorted(first, key=first.__getitem__))


def _first_layer(module: nn.Module) -> nn.Module:
    """The first list of a model's own layers, by which it has its place among other models."""
    mixin = _mixin_of(module)
    assert mixin is not None
    lists = (found(module, stack.path.partition(".*.")[0]) for stack in mixin.layer_stacks)
    return next((layers for layers in lists if layers is not None), module)


def _warn_of_others(model: PreTrainedModel, part: str) -> None:
    others = [name for name, child in model.named_children() if isinstance(child, PreTrainedModel) and name != part]
    if others:
        logger.warning(
            "%s: adapters go into %s; other models in it have none: %s.", type(model).__name__, part, ", ".join(others)
        )
