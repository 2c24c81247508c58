"""Base models with an interface: what a generated mixin states as class attributes is here worked out from names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.config_values import config_value
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.invertible.api import InvertibleAdaptersMixin
from adapter_runtime.methods.table import METHODS, methods_of, specs_of
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.embeddings.api import EmbeddingAdaptersMixin
from adapter_runtime.model.interface.checking import Part
from adapter_runtime.model.interface.declaration import AdapterModelInterface, Interface, by_part
from adapter_runtime.model.interface.layers import InterfaceLayerAdaptersMixin
from adapter_runtime.programs.dynamic import change_class, subclass
from adapter_runtime.roles import LayerStack


class InterfaceModelAdaptersMixin(EmbeddingAdaptersMixin, InvertibleAdaptersMixin, ModelBaseAdaptersMixin):
    """A base model whose modules were named by an `AdapterModelInterface`."""

    adapter_interface: Interface
    makes_mask = True  # not known, as nothing reads its source: most models mean the same by a mask of ones

    def use_interface(self, interface: Interface, parts: Sequence[Part]) -> None:
        """Take over what `interface`, which was checked, says: where the layers are, and the roles in them."""
        self.adapter_interface = interface if isinstance(interface, AdapterModelInterface) else dict(interface)
        self.layer_stacks = tuple(LayerStack(_join(part.path, part.interface.model_layers)) for part in parts)
        self.token_embeddings = _path_of(self, _token_embeddings(self))
        self.embedding_output = _join(parts[0].path, parts[0].interface.model_embeddings)
        for part in parts:
            width = config_value(getattr(part.module, "config", self.config), "hidden_size") or 0
            for layer in part.layers:
                change_class(layer, subclass(InterfaceLayerAdaptersMixin, type(layer)))
                assert isinstance(layer, InterfaceLayerAdaptersMixin)
                layer.use_interface(part.interface, width)

    def check_placeable(self, config: AdapterConfig) -> None:
        """Raise for methods and options that the interface does not offer.

        Raises:
            UnsupportedMethodError: it does not.
        """
        for part in by_part(self.adapter_interface).values():
            for method in sorted(methods_of(config) - set(part.adapter_methods)):
                refusal = METHODS[method].interface_refusal
                reason = refusal or "its interface does not list it in adapter_methods."
                raise UnsupportedMethodError(f"{type(self).__name__} does not support {method}: {reason}")
            for member in members(config):
                for spec in specs_of(member):
                    spec.check_described(member, part)


def described_base(model: PreTrainedModel, interface: Interface) -> PreTrainedModel:
    """The base model that `interface` speaks of.

    Raises:
        InvalidConfigError: the parts of the interface name several, or what they name is no model.
    """
    named = {part.base_model for part in by_part(interface).values() if part.base_model is not None}
    if len(named) > 1:
        raise InvalidConfigError(f"The parts of the interface name several base models: {sorted(named)}.")
    base = getattr(model, next(iter(named)), model) if named else model.base_model
    if not isinstance(base, PreTrainedModel):
        raise InvalidConfigError(
            f"AdapterModelInterface: base_model is {named.pop()!r}, in {type(model).__name__} a {type(base).__name__}. It must"
            " be a PreTrainedModel."
        )
    return base


def describe(model: PreTrainedModel, base: PreTrainedModel, interface: Interface, parts: Sequence[Part]) -> None:
    """Give a base model, and its layers, the classes and roles that `interface`, which was checked, stands for."""
    for part in parts:
        prefix = part.interface.base_model
        if prefix is not None and getattr(model, prefix, None) is base:
            model.base_model_prefix = prefix
    change_class(base, subclass(InterfaceModelAdaptersMixin, type(base)))
    assert isinstance(base, InterfaceModelAdaptersMixin)
    base.use_interface(interface, parts)


def _join(path: str, rest: str) -> str:
    return f"{path}.{rest}" if path else rest


def _token_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """The table of token embeddings; None in models of images or of sounds, whatever upstream calls their input embeddings."""
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return found if hasattr(found, "embedding_dim") else None


def _path_of(model: nn.Module, module: nn.Module | None) -> str:
    """The path of a module in a model; "" where it is not in there."""
    return next((name for name, candidate in model.named_modules() if candidate is module), "")
