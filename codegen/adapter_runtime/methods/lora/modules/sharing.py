"""`share_parameters`: adapters of several tasks that have matrices in common (MTL-LoRA).

Shared matrices are one parameter object in several modules. What is shared is recorded in the adapters config, so that a
saved model ties them again when it is loaded; each file of an adapter holds a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument
from adapter_runtime.composition import MultiTask
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError, nearest
from adapter_runtime.methods.lora.config import MultiTaskConfig
from adapter_runtime.programs.dynamic import DynamicMixin
from adapter_runtime.programs.layer import freeze_frozen

Names = MultiTask | Sequence[str] | str


class Shares(Protocol):
    """A model whose adapters can share parameters."""

    def share_parameters(
        self, adapter_names: Names, name: str | None = None, reference_adapter_name: str | None = None
    ) -> None: ...


class SharingMixin(DynamicMixin):
    """Parameters that several adapters have in common."""

    def share_parameters(
        self, adapter_names: Names, name: str | None = None, reference_adapter_name: str | None = None
    ) -> None:
        """Let adapters of several tasks share what their method shares: the matrices A and B of MTL-LoRA.

        Args:
            adapter_names: at least two names, also as ``"a,b"`` or as a `MultiTask` block.
            name: of the group; None = the names with commas between.
            reference_adapter_name: whose values all of them take; None = the first.

        Raises:
            UnknownAdapterError: a name that no adapter has.
            UnsupportedMethodError: a method that shares nothing.
            InvalidConfigError: adapters that differ in their places or shapes, or that share already.
        """
        model: AdaptedModel = self
        names = _names(adapter_names)
        state: ModelAdaptersConfig = model.adapters_config
        group = name or ",".join(names)
        _check_group(state, group, names)
        reference = reference_adapter_name or names[0]
        if reference not in names:
            raise InvalidConfigError(f"The reference {reference!r} is none of the adapters {names}.")
        merged = sorted(model.merged_adapters() & set(names))
        if merged:
            raise UnsupportedMethodError(
                f"Adapter {merged[0]!r} is in the weights with the values that it has now. Take it out: reset_adapter()."
            )
        ordered = (reference, *(other for other in names if other != reference))
        places = list(_shared_modules(model.adapters_base, ordered))
        _check_alike(places, ordered)
        with unchanged_on_error(model, state):
            _tie(places)
            state.shared[group] = ordered

    def unshare_parameters(self, adapter_names: Names, name: str | None = None) -> None:
        """Give each adapter of a group a copy of its own of what they share.

        Args:
            adapter_names: the name of the group, or the adapters that it was made of, if it was given no name.
            name: of the group.

        Raises:
            InvalidConfigError: there is no such group.
        """
        model: AdaptedModel = self
        state: ModelAdaptersConfig = model.adapters_config
        group = name or ",".join(_names(adapter_names))
        if group not in state.shared:
            raise InvalidConfigError(f"No adapters share parameters as {group!r}. {nearest(group, state.shared)}")
        with unchanged_on_error(model, state):
            _untie(list(_shared_modules(model.adapters_base, state.shared[group])))
            del state.shared[group]

    def tie_weights(self, *args: Argument, **kwargs: Argument) -> None:
        """See transformers, which calls this after it has loaded a model, and so made its parameters anew.

        Shared parameters become one object again, and frozen ones take no gradients again.
        """
        super().tie_weights(*args, **kwargs)
        base: AdaptedBaseModel = self.adapters_base
        freeze_frozen(base.modules())
        state: ModelAdaptersConfig | None = getattr(base, "_adapters_config", None)  # None while a model is made
        for names in state.shared.values() if state is not None else ():
            _tie(list(_shared_modules(base, names)))


def forget(state: ModelAdaptersConfig, name: str) -> None:
    """Take a deleted adapter out of its group; a group of one is none."""
    groups = {group: tuple(other for other in names if other != name) for group, names in state.shared.items()}
    state.shared = {group: names for group, names in groups.items() if len(names) > 1}


def _names(given: Names) -> tuple[str, ...]:
    if isinstance(given, str):
        return tuple(given.split(","))
    children = given.children if isinstance(given, MultiTask) else given
    names = tuple(name for name in children if isinstance(name, str))
    if len(names) < len(children):
        raise InvalidConfigError(f"Only adapters can share parameters, not blocks: {given!r}.")
    return names


def _check_group(state: ModelAdaptersConfig, group: str, names: Sequence[str]) -> None:
    """Raise where these adapters cannot become a group."""
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise InvalidConfigError(f"Parameters are shared by at least two different adapters, not by {list(names)}.")
    for name in names:
        config = state.get(name)
        if not isinstance(config, MultiTaskConfig):
            raise UnsupportedMethodError(
                f"Adapter {name!r} is a {type(config).__name__}, which shares no parameters. Supported: mtl_lora."
            )
    for other, members in state.shared.items():
        if group == other or set(members) & set(names):
            raise InvalidConfigError(
                f"{', '.join(members)} share parameters as {other!r} already. First: unshare_parameters({other!r})."
            )


def _shared_modules(base: AdaptedBaseModel, names: Sequence[str]) -> Iterator[list[nn.Module | None]]:
    """At each place where one of the adapters lives: their modules, in the order of `names`."""
    for layer in base.adapter_layers():
        found = [next((module for _, module in layer.modules_of(name)), None) for name in names]
        if any(module is not None for module in found):
            yield found


def _check_alike(places: Sequence[Sequence[nn.Module | None]], names: Sequence[str]) -> None:
    """Raise where adapters differ in their places, or in the shapes of what they would share."""
    for modules in places:
        shapes = [_shapes(module) for module in modules]
        for name, shape in zip(names, shapes, strict=True):
            if shape != shapes[0]:
                raise InvalidConfigError(
                    f"Adapters {names[0]!r} and {name!r} cannot share parameters: at one place they are {shapes[0]} and"
                    f" {shape}. Give both the same places, r, n_up_projection and dtype."
                )


def _shapes(module: nn.Module | None) -> dict[str, tuple[int | torch.dtype, ...]]:
    return {key: (*parameter.shape, parameter.dtype) for key, parameter in _sharable(module)}


def _sharable(module: nn.Module | None) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a module may share: its attribute ``sharable_parameters`` names them."""
    for key in getattr(module, "sharable_parameters", ()):
        yield key, getattr(module, key)


def _tie(places: Sequence[Sequence[nn.Module | None]]) -> None:
    for reference, *others in places:
        for key, parameter in _sharable(reference):
            for module in others:
                setattr(module, key, parameter)


@torch.no_grad()
def _untie(places: Sequence[Sequence[nn.Module | None]]) -> None:
    for _, *others in places:
        for module in others:
            for key, parameter in _sharable(module):
                setattr(module, key, nn.Parameter(parameter.clone(), requires_grad=parameter.requires_grad))


def restore(model: Shares, groups: Mapping[str, Sequence[str]]) -> None:
    """Let the adapters of each group share parameters again, as a saved model states.

    Args:
        groups: name of a group -> names of its adapters.
    """
    for group, names in groups.items():
        model.share_parameters(names, name=group)
