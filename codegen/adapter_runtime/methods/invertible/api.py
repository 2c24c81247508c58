"""Methods of models with invertible adapters. What they do is in ``methods/invertible/layer.py``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import CallSlot, thread
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.errors import UnsupportedMethodError
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

    def is_running_behind(self, given: Argument) -> bool:
        """Whether an invertible adapter runs now behind the token embeddings that an argument is: their table, or its weight."""
        if not isinstance(given, (nn.Embedding, nn.Parameter)) or not self.has_running_invertible():
            return False
        model: AdaptedBaseModel = self
        table = model.get_submodule(model.token_embeddings)
        return given is table or given is table.weight

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


class CalledSlot(CallSlot):
    """The projections to the vocabulary that were called in the current call."""

    def __init__(self) -> None:
        self.projections: set[nn.Module] = set()


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


def note_call(module: nn.Module, args: tuple[Argument, ...], output: Argument) -> None:
    """Forward hook of the projection to the vocabulary: see `RefuseUncalled`."""
    context = thread.context
    if context is not None and isinstance(context.owner, InvertibleAdaptersMixin):
        context.slot(CalledSlot).projections.add(module)


def refuse_table(module: nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> None:
    """Forward pre-hook of what stands in a head: raises where that is given the table of token embeddings (DeBERTa without `legacy`).

    Raises:
        UnsupportedMethodError: it is, and an invertible adapter runs behind them.
    """
    owner = thread.context.owner if thread.context is not None else None
    if isinstance(owner, InvertibleAdaptersMixin) and any(
        owner.is_running_behind(given) for given in (*args, *kwargs.values())
    ):
        raise _not_undone(module)


class RefuseUncalled:
    """Forward hook of a module of a head: raises where that reads the weight of its tied projection and does not call it (MobileBERT).

    Args:
        name: of the projection in the module.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Argument, ...], output: Argument) -> None:
        """See above.

        Raises:
            UnsupportedMethodError: it does, and an invertible adapter runs.
        """
        context = thread.context
        owner = context.owner if context is not None else None
        projection = module._modules.get(self.name)
        if not isinstance(owner, InvertibleAdaptersMixin) or projection is None:
            return
        assert context is not None
        if owner.has_running_invertible(projection) and projection not in context.slot(CalledSlot).projections:
            raise _not_undone(module)


def _not_undone(module: nn.Module) -> UnsupportedMethodError:
    return UnsupportedMethodError(
        f"{type(module).__name__} compares hidden states with the token embeddings in a way of its own, before which an invertible adapter"
        " is not undone. Use a flexible head (add_masked_lm_head, add_causal_lm_head), or an adapter without that part: inv_adapter=None."
    )


def watch_projection(model: AdaptedModel) -> None:
    """Let the projection to the vocabulary of a model with one of upstream's heads undo invertible adapters, and what compares hidden
    states with the embeddings without it refuse them.
    """
    for child in model.get_submodule("").children():
        if not isinstance(child, PreTrainedModel) and refuse_table not in child._forward_pre_hooks.values():
            child.register_forward_pre_hook(refuse_table, with_kwargs=True)
    projection = model.get_output_embeddings()
    if isinstance(projection, nn.Module) and undo_before_projection not in projection._forward_pre_hooks.values():
        projection.register_forward_pre_hook(undo_before_projection)
        projection.register_forward_hook(note_call)
        _watch_around(model.get_submodule(""), projection)


def _watch_around(model: nn.Module, projection: nn.Module) -> None:
    """Watch the module in a head that holds its projection. A model may have one that no forward needs, and so may models in it."""
    for module in model.modules():
        name = next((name for name, child in module.named_children() if child is projection), None)
        is_watched = any(isinstance(hook, RefuseUncalled) for hook in module._forward_hooks.values())
        if (
            name is not None
            and not is_watched
            and not any(isinstance(part, PreTrainedModel) for part in module.modules())
        ):
            module.register_forward_hook(RefuseUncalled(name))
