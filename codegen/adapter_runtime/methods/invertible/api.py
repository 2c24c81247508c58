"""Methods of models with invertible adapters. What they do is in ``methods/invertible/layer.py``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from adapter_runtime.call.context import thread
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.invertible.layer import (
    add_invertible,
    disable_invertible,
    invertible_adapters_of,
)
from adapter_runtime.programs.dynamic import DynamicMixin


class InvertibleAdaptersMixin(DynamicMixin):
    """Base of generated mixins of base models whose embeddings can have an invertible adapter.

    `add_adapter` creates invertible adapters where the config has ``inv_adapter``; the methods here are for code that wants
    to handle that part by itself.
    """

    def add_invertible_adapter(self, adapter_name: str) -> bool:
        """Create the invertible part of an adapter that has lost it.

        Returns:
            False where its config asks for none.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: it has that part already.
        """
        model: AdaptedBaseModel = self
        state = model.adapters_config
        configs = [member for member in members(state.get(adapter_name)) if isinstance(member, BnConfig)]
        found = next((config for config in configs if config.inv_adapter is not None), None)
        if found is None:
            return False
        held = invertible_adapters_of(model)
        if held is not None and adapter_name in held:
            raise ValueError(f"Adapter {adapter_name!r} has its invertible part already.")
        with unchanged_on_error(model, state):
            add_invertible(model, adapter_name, found)
            held = invertible_adapters_of(model)
            assert held is not None
            held[adapter_name].to(model.device, model.dtype).train(model.training)
            model.activate(state.active_setup, state.skip_layers)
        return True

    def delete_invertible_adapter(self, adapter_name: str) -> None:
        """Remove the invertible part of an adapter, if it has one."""
        model: AdaptedBaseModel = self
        held = invertible_adapters_of(model)
        if held is None or adapter_name not in held:
            return
        held.delete_adapter(adapter_name)
        disable_invertible(model)
        model.activate(model.adapters_config.active_setup, model.adapters_config.skip_layers)

    def get_invertible_adapter(self) -> nn.Module | None:
        """The invertible part of the first active adapter that has one."""
        model: AdaptedBaseModel = self
        held, block = invertible_adapters_of(model), model.adapters_config.active_setup
        names = [name for name in block.names() if name in held] if held is not None and block is not None else []
        return held[names[0]] if names and held is not None else None

    def enable_invertible_adapters(self, adapter_names: Iterable[str]) -> None:
        """Let the invertible parts of adapters be trained."""
        held = invertible_adapters_of(self)
        for name in adapter_names:
            if held is not None and name in held:
                held[name].requires_grad_(True)

    def has_running_invertible(self, projection: nn.Module | None = None) -> bool:
        """Whether an invertible adapter runs now, and, given a projection to the vocabulary, is undone before it.

        It is undone only where the projection is tied to the token embeddings, as in the paper: there, hidden states are
        compared with embeddings. A projection with weights of its own was trained on hidden states as they are.
        """
        model: AdaptedBaseModel = self
        held = invertible_adapters_of(model)
        if held is None or held.current_program() is None:
            return False
        weight = model.get_submodule(model.token_embeddings).weight
        return projection is None or getattr(projection, "weight", None) is weight

    def invertible_adapters_forward(self, hidden_states: torch.Tensor, rev: bool = False) -> torch.Tensor:
        """Run the active invertible adapters: [B, L, E] -> [B, L, E].

        Args:
            rev: run them backwards, the last one first.
        """
        held = invertible_adapters_of(self)
        return hidden_states if held is None else held.couple(hidden_states, rev)


class InvertibleAdaptersWrapperMixin(DynamicMixin):
    """The methods of `InvertibleAdaptersMixin`, for models around a base model, to which the adapters belong."""

    def add_invertible_adapter(self, adapter_name: str) -> bool:
        """See `InvertibleAdaptersMixin`."""
        return self._inverting_base.add_invertible_adapter(adapter_name)

    def delete_invertible_adapter(self, adapter_name: str) -> None:
        """See `InvertibleAdaptersMixin`."""
        self._inverting_base.delete_invertible_adapter(adapter_name)

    def get_invertible_adapter(self) -> nn.Module | None:
        """See `InvertibleAdaptersMixin`."""
        return self._inverting_base.get_invertible_adapter()

    def enable_invertible_adapters(self, adapter_names: Iterable[str]) -> None:
        """See `InvertibleAdaptersMixin`."""
        self._inverting_base.enable_invertible_adapters(adapter_names)

    def invertible_adapters_forward(self, hidden_states: torch.Tensor, rev: bool = False) -> torch.Tensor:
        """See `InvertibleAdaptersMixin`."""
        return self._inverting_base.invertible_adapters_forward(hidden_states, rev)

    @property
    def _inverting_base(self) -> InvertibleAdaptersMixin:
        base: InvertibleAdaptersMixin = self.adapters_base
        return base


class WatchesProjectionMixin(DynamicMixin):
    """Base of upstream's classes with a head: a new projection to the vocabulary undoes invertible adapters too."""

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """See transformers."""
        super().set_output_embeddings(new_embeddings)
        watch_projection(self)


class WatchedProjectionMixin(InvertibleAdaptersWrapperMixin, WatchesProjectionMixin):
    """`InvertibleAdaptersWrapperMixin` for upstream's classes with a head."""


def undo_before_projection(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
    """Forward pre-hook of the projection to the vocabulary of one of upstream's heads.

    It is registered once, by `watch_projection` in `init`, and decides in each call whether there is anything to undo: a
    base model, to which adapters can be added later, does not know the head around it.

    Args:
        module: the projection.
        args: hidden states [B, L, E], and whatever else the projection takes.
    """
    context = thread.context
    owner = context.owner if context is not None else None
    if not isinstance(owner, InvertibleAdaptersMixin) or not args or not owner.has_running_invertible(module):
        return None
    return (owner.invertible_adapters_forward(args[0], rev=True), *args[1:])


def watch_projection(model: AdaptedModel) -> None:
    """Let the projection to the vocabulary of a model with one of upstream's heads undo invertible adapters."""
    projection = model.get_output_embeddings()
    if isinstance(projection, nn.Module) and undo_before_projection not in projection._forward_pre_hooks.values():
        projection.register_forward_pre_hook(undo_before_projection)
