"""Which modules the option `also_train` of a config names, and which of these an adapter can have copies of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import nn

from adapter_runtime.contract.config import AdapterConfig, left_out_layers
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.common.along.copies import add_copies
from adapter_runtime.methods.common.projections import projections_of
from adapter_runtime.methods.configs.union import members
from adapter_runtime.programs.layer import AdapterLayerBase

_SHOWN = 8  # candidates that a message lists, outside of layers and in these


class Owner(NamedTuple):
    """A module with parameters of its own, in a module that is named."""

    path: str  # from the base model
    layer_index: int  # of the layer that it stands in; -1 = in none
    module: nn.Module


def also_trained(config: AdapterConfig) -> tuple[str, ...]:
    """The names in the option `also_train` of a config, or of the members of a union."""
    return tuple(dict.fromkeys(name for member in members(config) for name in member.also_train or ()))


def is_named(path: str, name: str) -> bool:
    """Whether a module stands at the path or last name `name`, or in what stands there."""
    return bool(name) and (f"{path}.".startswith(f"{name}.") or f".{name}." in f".{path}.")


def check_also_trained(model: AdaptedModel, config: AdapterConfig) -> None:
    """Raise where `add_also_trained` would.

    Raises:
        InvalidConfigError: a name means nothing.
        UnsupportedMethodError: a module cannot be trained along.
    """
    if also_trained(config):
        Naming(model).owners(config)


def add_also_trained(model: AdaptedModel, name: str, config: AdapterConfig) -> None:
    """Give an adapter copies of the modules that its config, which was checked, names."""
    if also_trained(config):
        for owner in Naming(model).owners(config).values():
            add_copies(owner.module, name, owner.path, owner.layer_index)


class Naming:
    """Looks for modules of a base model.

    Args:
        model: a model with adapters, of which that is the base model.
    """

    def __init__(self, model: AdaptedModel) -> None:
        self.model = model
        self.base: AdaptedBaseModel = model.adapters_base
        self.modules = {path: module for path, module in _upstreams(self.base.get_submodule("")) if path}
        self.layers = {layer: index for index, layer in self.base.iter_layers()}
        self.in_layers = {inner: index for layer, index in self.layers.items() for inner in layer.modules()}
        self.holders = _holders(model)
        self.projections = {
            module
            for _, layer in self.base.adapted_layers()
            for projection in projections_of(layer)
            if (module := layer.module_at(projection.path, required=False)) is not None
        }
        self.tables = {
            part.get_submodule(part.token_embeddings)
            for part in self.base.adapter_parts().values()
            if part.token_embeddings
        }

    def owners(self, config: AdapterConfig) -> dict[nn.Module, Owner]:
        """What the adapter of a config gets copies of.

        Raises:
            InvalidConfigError: a name means no module, or only modules in layers that are left out, or without parameters.
            UnsupportedMethodError: a module cannot be trained along.
        """
        found: dict[nn.Module, Owner] = {}
        for member in members(config):
            left_out = left_out_layers(member)
            for name in member.also_train or ():
                owners = [owner for path in self._meant(name) for owner in self._owners_in(path)]
                kept = {owner.module: owner for owner in owners if owner.layer_index not in left_out}
                if not kept:
                    raise InvalidConfigError(
                        f"also_train names {name!r}, which has no parameters in {type(self.base).__name__}"
                        f"{' but in layers that are left out (leave_out)' if owners else ''}. Leave it out."
                    )
                found.update(kept)
        return found

    def _meant(self, name: str) -> list[str]:
        """The paths that a name stands for: that path, else all whose last names it is."""
        if name in self.modules:
            return [name]
        found = [path for path in self.modules if name and path.endswith(f".{name}")]
        if not found and self._is_of_head(name):
            raise InvalidConfigError(
                f"also_train names {name!r}, which is no module of {type(self.base).__name__}, the base model, but of the head"
                " around it. Leave it out: heads are trained and saved with adapters anyway."
            )
        if not found:
            raise InvalidConfigError(
                f"also_train names {name!r}, but {type(self.base).__name__} has no module of this path (from the base"
                f" model) or last name. An adapter can train along: {self._candidates() or 'nothing'}."
            )
        return found

    def _is_of_head(self, name: str) -> bool:
        """Whether a name means a module of the head around the base model."""
        own = set(self.base.modules())
        named = (module for path, module in self.model.named_modules() if name and f".{path}".endswith(f".{name}"))
        return any(module not in own for module in named)

    def _owners_in(self, path: str) -> Iterator[Owner]:
        """The modules with parameters in the module at `path`.

        Raises:
            UnsupportedMethodError: one of them cannot have copies.
        """
        for inner, module in _upstreams(self.modules[path], path):
            reason = self._refusal(inner, module)
            if reason:
                raise UnsupportedMethodError(f"also_train names {path!r}, but {inner!r} {reason}")
            if any(True for _ in module.parameters(recurse=False)):
                yield Owner(inner, self.in_layers.get(module, -1), module)

    def _refusal(self, path: str, module: nn.Module) -> str:
        """Why a module can have no copies: the rest of a sentence. "" = it can."""
        if module in self.layers or module in self.projections or isinstance(module, AdapterLayerBase):
            return "is a place of adapters itself. Name what stands between and around such: a projector, norms, a pooler."
        if module in self.tables:
            return (
                "embeds the tokens. Train it by train_adapter(..., train_embeddings=True), or as further embeddings."
            )
        if self.base.is_of_head(f"{path}."):
            return "is of the head, which is trained and saved with adapters anyway."
        own = list(module.parameters(recurse=False))
        if not all(parameter.dtype.is_floating_point for parameter in own):
            return "has parameters that are no floating-point numbers (quantised): these cannot be trained."
        shared = next((other for parameter in own for other in self.holders[parameter] if other is not module), None)
        if shared is not None:
            return f"has a parameter that a {type(shared).__name__} elsewhere shares, which would keep the old values."
        if own and isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
            return "is a list of modules with parameters of its own, and has no place for copies of these. Name its entries."
        if any(_keeps(value, own) for value in vars(module).values()):
            return f"is a {type(module).__name__}, which keeps its parameters where a copy would not be seen."
        return ""

    def _candidates(self) -> str:
        """The outermost modules that can be named, outside of layers; of those in layers the last names."""
        taken: list[str] = []
        for path, module in self.modules.items():
            if path.startswith(tuple(f"{outer}." for outer in taken)):
                continue
            inside = dict(_upstreams(module, path))
            has_own = any(True for inner in inside.values() for _ in inner.parameters(recurse=False))
            if has_own and not any(self._refusal(inner, held) for inner, held in inside.items()):
                taken.append(path)
        outside = [path for path in taken if self.modules[path] not in self.in_layers]
        inside_layers = {path.rpartition(".")[2] for path in taken if self.modules[path] in self.in_layers}
        return "; in layers: ".join(", ".join(names[:_SHOWN]) for names in (outside, sorted(inside_layers)) if names)


def _upstreams(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model with their paths, without those that hold adapters and nothing of upstream's."""
    rooms = model.adapter_rooms() if isinstance(model, AdapterLayerBase) else ()
    if isinstance(model, AdapterLayerBase) and model.is_only_room():
        return
    yield prefix, model
    for name, child in model.named_children():
        if name not in rooms:
            yield from _upstreams(child, f"{prefix}.{name}" if prefix else name)


def _holders(model: AdaptedModel) -> Mapping[nn.Parameter, list[nn.Module]]:
    """The modules that have each parameter."""
    found: dict[nn.Parameter, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in {id(own): own for own in module.parameters(recurse=False)}.values():
            found.setdefault(parameter, []).append(module)
    return found


def _keeps(value: object, parameters: list[nn.Parameter]) -> bool:
    """Whether an attribute of a module refers to its parameters beside those that are registered (the weights of an LSTM)."""
    held = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(entry, torch.Tensor) and any(entry is own for own in parameters) for entry in held)
