"""Where in a model the base model is that classes were generated for, and of which models it is made."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from adapter_runtime.contract.paths import found
from adapter_runtime.contract.registry import load_class, registered
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.parts.composite import ModelUsingSubmodelsAdaptersMixin
from adapter_runtime.model.parts.stacks import layers_in

_TABLE = re.compile("MODEL_.*MAPPING_NAMES")  # of upstream's auto classes of models
_OF_ALL = frozenset(dir(PreTrainedModel))  # methods of every model, which name none in it

logger = logging.getLogger(__name__)


class Root(NamedTuple):
    """A base model, and where in it the layers are."""

    base: PreTrainedModel
    # Paths of the models that it is made of; "" = layers of its own. Empty: it is one model.
    parts: tuple[str, ...] = ()
    # Paths in the whole model of whole models that have no adapters: they are frozen with the base model.
    beside: tuple[str, ...] = ()


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

    Where classes were generated for none of these, or the model holds others beside that have such, it is made of those. Where it
    holds none, what upstream calls its base model is given. One warning names the whole models that get no adapters.

    Raises:
        UnsupportedModelError: `model` is a class of upstream's of a type that was refused, though models in it have adapters. Or it is no
            model of transformers.
    """
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(_no_model_of_upstream(model))
    if is_covered(model):
        return Root(model, _stated_parts(model))
    root = _root_inside(model)
    beside = _models_beside(model, root)
    if beside and (root.parts or is_covered(root.base)):
        where = ", ".join(root.parts if root.base is model else [_path(model, root.base)])
        logger.warning(
            "%s: adapters go into %s; other models in it have none: %s. Training adapters leaves these as they are.",
            type(model).__name__,
            where,
            ", ".join(beside),
        )
    return root._replace(beside=beside)


def _root_inside(model: PreTrainedModel) -> Root:
    """The root of a model for whose own class nothing was generated."""
    inner = model.base_model
    parts = _in_order(model, dict(_covered_in(model, "")))
    if is_covered(inner):
        within = set(inner.modules())
        kept = tuple(part for part in parts if model.get_submodule(part) in within or _is_part(model, part))
        if all(model.get_submodule(part) in within for part in kept):
            return Root(inner, _stated_parts(inner))
        return Root(model, kept)
    if not parts:
        return Root(inner)
    is_around_one = len(parts) == 1 and "." not in parts[0]
    if _was_refused(model) and not (is_around_one and _is_head_around(model, parts[0])):
        raise UnsupportedModelError(_what_was_refused(model, parts))
    if is_around_one:
        return Root(model.get_submodule(parts[0]))
    if inner is not model:
        path = _path(model, inner)
        if all(part.startswith(f"{path}.") for part in parts):
            return Root(inner, tuple(part.removeprefix(f"{path}.") for part in parts))
    return Root(model, parts)


def _is_head_around(model: PreTrainedModel, path: str) -> bool:
    """Whether what stands in a model beside the one at `path`, a child of it, is single modules, as in a head."""
    return all(not list(child.children()) for name, child in model.named_children() if name != path)


def _was_refused(model: PreTrainedModel) -> bool:
    """Whether `model` is of a type that upstream's tables know, which is planned and tried, and of which nothing was generated.

    What stands between its parts was not understood then, or did not pass: a part that runs without gradients (X-Codec), features that stay
    on a module from one call to the next (OmDet-Turbo), rows in another order (DepthPro). No table knows RAG, whose parts are any models.
    """
    model_type = model.config.model_type
    tables = (names for name, names in vars(modeling_auto).items() if _TABLE.fullmatch(name))
    is_known = _is_of_upstream(model) and any(model_type in names for names in tables)
    return is_known and model_type not in registered().model_types


def _what_was_refused(model: PreTrainedModel, parts: tuple[str, ...]) -> str:
    model_type = model.config.model_type
    classes = {path: type(model.get_submodule(path)).__name__ for path in parts}
    return (
        f"{type(model).__name__} (type {model_type!r}) has no adapter classes, as its type was refused, although models in it have: "
        f"{', '.join(f'{path} ({name})' for path, name in classes.items())}. adapter-codegen explain {model_type} says why. To adapt"
        f" one of these alone, at your own risk: init(model.{parts[0]})."
    )


def _no_model_of_upstream(model: nn.Module) -> str:
    inside = (
        [path for path, module in model.named_modules() if path and is_covered(module)]
        if isinstance(model, nn.Module)
        else []
    )
    way = f"Derive {type(model).__name__} from PreTrainedModel, so that it has a config and saves its adapters" + (
        f", or adapt what it holds: init(model.{inside[0]})." if inside else "."
    )
    return f"init takes a model of transformers, a PreTrainedModel, and was given {type(model).__name__}. {way}"


def _path(model: nn.Module, inner: nn.Module) -> str:
    found: str = next(name for name, module in model.named_modules() if module is inner)
    return found


def _is_part(model: PreTrainedModel, path: str) -> bool:
    inner = model.get_submodule(path)
    return isinstance(inner, PreTrainedModel) and _is_whole(model, inner) and _is_run(model, path)


def _is_of_upstream(model: nn.Module) -> bool:
    return type(model).__module__.startswith("transformers.")


def _is_whole(model: PreTrainedModel, inner: PreTrainedModel) -> bool:
    """Whether a model inside another one is a model of its own, and not its head."""
    return not _is_of_upstream(model) or inner.config.model_type != model.config.model_type


def _is_run(model: nn.Module, path: str) -> bool:
    """Whether a model beside the base model is run by the forward: in a class of somebody's own always, in one of upstream's where the
    forward, or a method of the class that it calls, names it. A codec that only `generate` runs (Kyutai) would learn nothing.
    """
    if not _is_of_upstream(model):
        return True
    cls = type(model)
    named: set[str] = set()
    methods = ["forward"]
    while methods:
        code = getattr(inspect.unwrap(getattr(cls, methods.pop())), "__code__", None)
        new = set(code.co_names) - named if code is not None else set()
        named |= new
        methods += [name for name in new if inspect.isfunction(getattr(cls, name, None)) and name not in _OF_ALL]
    return path.partition(".")[0] in named


def _models_beside(model: PreTrainedModel, root: Root) -> tuple[str, ...]:
    """The paths of whole models in `model` that are no part of it, neither around one nor in one.

    In a class of upstream's, only what has a config of another type: its heads may be of such classes too, and have the config of the whole
    (CLIPSeg's decoder).
    """
    placed = [root.base.get_submodule(path) for path in root.parts] if root.base is model else [root.base]
    inside = {module for part in placed for module in part.modules()}
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        is_whole = isinstance(module, PreTrainedModel) and module not in inside and inside.isdisjoint(module.modules())
        if is_whole and _is_whole(model, module) and not any(path.startswith(f"{one}.") for one in found):
            found[path] = module
    return tuple(found)


def is_base_model(model: nn.Module) -> bool:
    """Whether the class is what upstream calls the model of its type, without a head."""
    names = MODEL_MAPPING_NAMES.get(model.config.model_type, ()) if isinstance(model, PreTrainedModel) else ()
    return type(model).__name__ in ((names,) if isinstance(names, str) else names)


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
