"""`init`: an upstream model becomes one with adapters, in place, without a change to any upstream class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from adapter_runtime.composition import Fuse
from adapter_runtime.contract.registry import Registry, load_class, registered
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import UnsupportedModelError, nearest
from adapter_runtime.methods.common.initialisation import weights_follow
from adapter_runtime.methods.fusion.stored import read_fusions
from adapter_runtime.methods.invertible.api import WatchedProjectionMixin, watch_projection
from adapter_runtime.methods.lora.modules.sharing import restore as restore_sharing
from adapter_runtime.methods.table import METHODS
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.model.base import ModelBaseAdaptersMixin, wrap_checkpoints
from adapter_runtime.model.embeddings.api import (
    EmbeddingAdaptersMixin,
    EmbeddingAdaptersWrapperMixin,
)
from adapter_runtime.model.head_model import ModelWithHeadsAdaptersMixin
from adapter_runtime.model.heads.labels import StaticLabelsMixin
from adapter_runtime.model.heads.own import OwnHeadAdaptersMixin
from adapter_runtime.model.init.finding import Root, find_root, is_base_model, is_covered, lacks_layers, qualified_name
from adapter_runtime.model.interface.checking import Part, check_parts
from adapter_runtime.model.interface.declaration import Interface, by_part
from adapter_runtime.model.interface.models import describe, described_base
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.model.parts.composite import CompositeWithHeadMixin, ModelUsingSubmodelsAdaptersMixin
from adapter_runtime.programs.dynamic import change_class, subclass
from adapter_runtime.programs.hooks import patch_forward


class _StaticHeadModelMixin(
    StaticLabelsMixin, WatchedProjectionMixin, EmbeddingAdaptersWrapperMixin, ModelWithHeadsAdaptersMixin
):
    """What `init` adds to upstream's classes with a head."""


class _StaticHeadModelWithoutEmbeddingsMixin(StaticLabelsMixin, ModelWithHeadsAdaptersMixin):
    """What `init` adds to upstream's classes with a head whose base model has no token embeddings."""


def init(
    model: PreTrainedModel, adapters_config: ModelAdaptersConfig | None = None, interface: Interface | None = None
) -> None:
    """Turn a model of a supported type, or one described by an interface, into one with adapters.

    The objects, their parameters and hooks stay; classes of some modules change. Adapters that the model's config
    names are added, with random weights. A model that has adapters already is left alone.

    Args:
        model: a base model of upstream, or one with a head.
        adapters_config: adapters to add, by name.
        interface: where the modules of a model are that no classes were generated for; for a model made of several, a
            mapping from paths of these to interfaces. It has precedence over generated classes.

    Raises:
        UnsupportedModelError: no adapter classes were generated for the model and there is no interface, or the model has
            adapters already, by another interface.
        InvalidConfigError: the model has no such modules as the interface names. In each case the model is unchanged.
    """
    root = find_root(model) if interface is None else Root(described_base(model, interface))
    base = root.base
    if isinstance(base, ModelBaseAdaptersMixin):
        _check_turned(base, interface)
        return
    registry = registered().of_type(base.config.model_type)
    parts = check_parts(base, by_part(interface)) if interface is not None else _check_supported(root, registry)
    with unchanged_on_error(model, ModelAdaptersConfig()):
        upstream_classes = {module: type(module) for module in model.modules()}
        if interface is not None:
            describe(model, base, interface, parts)
        else:
            _swap_all(model, root)
        for module, upstream in upstream_classes.items():
            if type(module) is not upstream:
                patch_forward(module)
                _keep_output_capturing(module)
        if not isinstance(model, ModelAdaptersMixin):
            _wrap(model, base)
        elif isinstance(model, OwnHeadAdaptersMixin) and (model.token_embeddings or root.parts):
            watch_projection(model)  # of a model made of several, one of the parts has the table
        assert isinstance(model, ModelAdaptersMixin)
        model.__dict__["models_beside"] = root.beside
        wrap_checkpoints(model)
        if isinstance(base, ModelUsingSubmodelsAdaptersMixin):
            base.use_parts(root.parts or ("",))
        base.init_base_adapters()
        _give_back_unplaced(base, upstream_classes)
        _keep_whole(upstream_classes)
        _restore_adapters(model, adapters_config)


def _check_turned(base: ModelBaseAdaptersMixin, interface: Interface | None) -> None:
    """Raise where the model has adapters already, but not by this interface."""
    if interface is not None and base.adapter_interface != interface:
        raise UnsupportedModelError(
            f"{type(base).__name__} has adapters already, by "
            f"{'another interface' if base.adapter_interface is not None else 'generated classes'}. Give the interface to the"
            " first call of init, on a fresh model."
        )


def _check_supported(root: Root, registry: Registry) -> list[Part]:
    """Raise where no mixin was generated for the class of the base model, and it is not made of models that have such, or one
    of these has adapters already. No part of it has an interface.
    """
    base = root.base
    for path in root.parts:
        part = base.get_submodule(path)
        if isinstance(part, ModelBaseAdaptersMixin):
            raise UnsupportedModelError(
                f"{path} of {type(base).__name__} has adapters of its own already. Call init({type(base).__name__}) first."
            )
    if root.parts or (is_covered(base) and not lacks_layers(base)):
        return []
    if is_covered(base):
        raise UnsupportedModelError(
            f"None of the models that this {type(base).__name__} is made of has adapter classes. Generate them: adapter-codegen"
            " explain shows its parts, add-model MODEL_TYPE adds one." + _version_hint(registry)
        )
    model_type = base.config.model_type
    message = f"{type(base).__name__} (type {model_type!r}) has no adapter classes."
    if model_type in registry.model_types:
        message += f" Those of type {model_type!r} were generated for another base model."
    else:
        message += f" {nearest(model_type, registry.model_types)} Generate it: adapter-codegen add-model {model_type}."
    message += " Or name its modules: init(model, interface=AdapterModelInterface(...))."
    raise UnsupportedModelError(message + _version_hint(registry))


def _version_hint(registry: Registry) -> str:
    """A sentence for messages where the installed release is not the one that files were generated from."""
    generated_from = registry.transformers_version
    if transformers.__version__ == generated_from:
        return ""
    return f" (Models were generated from transformers {generated_from}; installed is {transformers.__version__}.)"


def _swap_all(model: PreTrainedModel, root: Root) -> None:
    """Change the classes of all modules for which some were generated: those of a part by the tables of its own type."""
    parts = {root.base.get_submodule(path) for path in root.parts} or {root.base}
    owners: dict[nn.Module, PreTrainedModel] = {}
    sizes = {part: sum(1 for _ in part.modules()) for part in parts}
    for part in sorted(parts, key=sizes.__getitem__, reverse=True):  # what is inside of another comes later
        owners.update(dict.fromkeys(part.modules(), part))
    for module in list(model.modules()):
        owner = owners.get(module, root.base)
        if module is owner or not is_covered(module):
            _swap(module, registered().of_type(owner.config.model_type))
    if root.parts:
        _join(model, root)


def _join(model: PreTrainedModel, root: Root) -> None:
    """Make a model one that is made of parts, and give what is between it and these the methods for adapters too."""
    base = root.base
    if not isinstance(base, ModelUsingSubmodelsAdaptersMixin):
        is_head = base is model and (base.can_generate() or not is_base_model(base))
        change_class(
            base, subclass(CompositeWithHeadMixin if is_head else ModelUsingSubmodelsAdaptersMixin, type(base))
        )
    _turn_between(root)
    for module in list(base.modules()):
        is_turned = isinstance(module, ModelAdaptersMixin) or not isinstance(module, PreTrainedModel)
        if not is_turned and isinstance(module.base_model, ModelBaseAdaptersMixin):
            _wrap(module, module.base_model)


def _turn_between(root: Root) -> None:
    """Let models that stand between a whole and some of its parts, made of these alone, be called in the context of the whole: one of
    upstream's in a class of a user's own may be called by itself, to generate or for features, and knows which row shows an image.
    """
    parts = {root.base.get_submodule(path) for path in root.parts}
    for module in list(root.base.modules()):
        if module is root.base or isinstance(module, ModelAdaptersMixin) or not lacks_layers(module):
            continue
        if not parts.isdisjoint(module.modules()):
            _swap(module, registered().of_type(module.config.model_type))


def _swap(module: nn.Module, registry: Registry) -> None:
    """Change the class of a module for which one was generated."""
    name = qualified_name(type(module))
    if name in registry.with_adapters:
        made = load_class(registry.with_adapters[name])
        is_model = issubclass(made, ModelBaseAdaptersMixin)  # its forward spans a context, as that of other models
        change_class(module, subclass(made, type(module)) if is_model else made)
    elif name in registry.model_mixins:
        change_class(module, subclass(load_class(registry.model_mixins[name]), type(module)))


def _give_back_unplaced(base: ModelBaseAdaptersMixin, upstream_classes: Mapping[nn.Module, type]) -> None:
    """Give modules that no stack of `base` uses their upstream classes back.

    They have the class of layers, or of modules in layers, but stand elsewhere: an attention that pools, the layers of
    another model inside of this one. Nothing prepared them, so that their edited forwards would not run.
    """
    layers = {layer for _, layer in base.iter_layers()}
    elsewhere = [
        module for module in upstream_classes if isinstance(module, LayerAdaptersMixin) and module not in layers
    ]
    in_layers = {module for layer in layers for module in layer.modules()}
    beside = {module for layer in elsewhere for module in layer.modules()} - in_layers
    for module, upstream in upstream_classes.items():
        if module in beside:  # such a layer, or a module in one
            is_placed = False
        elif isinstance(module, LayerAdaptersMixin):
            is_placed = module in layers  # or it stands within another layer, whose places are that one's (Zamba)
        else:
            claims = (spec.is_claimed(module) for spec in METHODS.values())
            placed = [is_claimed for is_claimed in claims if is_claimed is not None]
            if any(placed) and not all(placed):
                raise UnsupportedModelError(
                    f"A layer claims only a part of the adapter places of {type(module).__name__}."
                )
            is_placed = not placed or any(placed)
        if not is_placed:
            module.__class__ = upstream
            patch_forward(module)


def _keep_whole(upstream_classes: Mapping[nn.Module, type]) -> None:
    """Let what upstream never splits stay whole under its new class too.

    accelerate's device maps and the wrap policies of FSDP go by the names in ``_no_split_modules``. The attribute is set
    on each model, never on a class: other models of that class have no adapters.
    """
    for module in upstream_classes:
        if isinstance(module, PreTrainedModel) and module._no_split_modules:
            names = set(module._no_split_modules)
            renamed = {
                type(part).__name__ for part, upstream in upstream_classes.items() if upstream.__name__ in names
            }
            module._no_split_modules = names | renamed


def _wrap(model: PreTrainedModel, base: nn.Module) -> None:
    """Give a model with a head the methods for adapters."""
    has_embeddings = isinstance(base, EmbeddingAdaptersMixin)
    mixin = _StaticHeadModelMixin if has_embeddings else _StaticHeadModelWithoutEmbeddingsMixin
    change_class(model, subclass(mixin, type(model)))
    prefix = next((name for name, child in model.named_children() if child is base), model.base_model_prefix)
    if prefix != model.base_model_prefix:
        model.base_model_prefix = prefix
    patch_forward(model)
    _keep_output_capturing(model)
    if has_embeddings:
        watch_projection(model)


def _keep_output_capturing(module: nn.Module) -> None:
    """Upstream remembers which outputs can be recorded by the name of a model's class: tell it the new one."""
    if isinstance(module, PreTrainedModel):
        _CAN_RECORD_REGISTRY[module] = module._can_record_outputs


def _restore_adapters(model: ModelAdaptersMixin, given: ModelAdaptersConfig | None) -> None:
    """Add the adapters that the model's config, as saved with the full model, or the caller names."""
    stored = getattr(model.config, "adapters", None)  # upstream's configs keep entries that they do not know
    configs = ModelAdaptersConfig.read(stored) if stored else {}
    if given is not None:
        configs.update(given.adapters)
    with weights_follow():
        for name, config in configs.items():
            model.add_adapter(name, config)
    for fuse, fusion_config in _fusions(stored, given):
        model.add_adapter_fusion(fuse, fusion_config)
    restore_sharing(model, {**(stored or {}).get("shared_parameters", {}), **(given.shared if given else {})})


def _fusions(
    stored: Mapping[str, Json] | None, given: ModelAdaptersConfig | None
) -> Iterator[tuple[Fuse, Mapping[str, Json]]]:
    yield from read_fusions(stored or {})
    for name, entry in given.fusions.items() if given is not None else ():
        yield Fuse(*entry.adapter_names, name=name), entry.config
