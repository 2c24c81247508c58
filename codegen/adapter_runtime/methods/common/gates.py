"""Gates: how much of what an adapter gives is used, decided by what it reads (https://arxiv.org/abs/2110.07577)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from adapter_runtime.call.context import Place
from adapter_runtime.call.sequences import NotesSequences
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.programs.hooks import remove_hooks
from adapter_runtime.programs.layer import AdapterLayerBase

# Options of places in the feed-forward block, or behind it, where upstream's chunks may reach.
_FEED_FORWARD = frozenset({"output_adapter", "intermediate_lora", "output_lora", "gate_lora"})


def mean_gate(logits: torch.Tensor) -> torch.Tensor:
    """[B, L, G] -> [B, 1, G]: one gate per sample, averaged over the sequence."""
    return torch.sigmoid(logits).mean(dim=tuple(range(1, logits.dim() - 1)), keepdim=True)


def check_gates(model: AdaptedBaseModel, layers: Iterable[int]) -> None:
    """Raise where adapters of some layers cannot have gates: the mean over a row that holds all examples would be one gate for all.

    Raises:
        UnsupportedMethodError: one of the layers is in a list that may be called with such rows.
    """
    packed = model.layers_of_form("packed").intersection(layers)
    if packed:
        raise UnsupportedMethodError(
            f"A gate is the mean over a sequence, but layers of {type(model.get_submodule('')).__name__} get the positions of all rows in"
            f" one. Use use_gating=False, or leave them out: leave_out={sorted(packed)}, or parts in a model made of several."
        )


def check_pieces(model: AdaptedBaseModel, places: Iterable[tuple[int, str]]) -> None:
    """Raise where upstream gives a feed-forward block a sequence in pieces: a gate would be the mean over each of them.

    Args:
        places: number of a layer, and the option that asks for the place in it.

    Raises:
        UnsupportedMethodError: one of the places is in or behind such a block.
    """
    cut = {index for index, layer in model.iter_layers() if any(map(_cuts_sequences, layer.modules()))}
    found = {location for index, location in places if index in cut and location in _FEED_FORWARD}
    if found:
        options = ", ".join(f"{location}=False" for location in sorted(found))
        raise UnsupportedMethodError(
            f"A gate is the mean over a sequence, but {type(model.get_submodule('')).__name__} gives its feed-forward blocks pieces of one"
            f" (chunk_size_feed_forward). Use use_gating=False, a config of the model with chunk_size_feed_forward=0, or {options}."
        )


def _cuts_sequences(module: nn.Module) -> bool:
    size: int | None = getattr(module, "chunk_size_feed_forward", None)  # upstream's classes that cut keep it so
    return bool(size)


def watch_sequences(model: AdaptedBaseModel, layers: Iterable[int]) -> None:
    """Let gates in some layers know how long sequences are, where upstream puts those of all rows into one dimension."""
    wanted = set(layers)
    for index, layer in model.iter_layers():
        if index in wanted and not _is_watched(layer):
            layer.register_forward_pre_hook(NotesSequences(index), with_kwargs=True)


def leave_sequences(model: AdaptedBaseModel) -> None:
    """Remove these hooks from layers in which no adapter has a gate any more."""
    for _, layer in model.iter_layers():
        if _is_watched(layer) and not any(map(_holds_gates, layer.modules())):
            remove_hooks(layer, lambda hook: isinstance(hook, NotesSequences))


def _is_watched(layer: nn.Module) -> bool:
    return any(isinstance(hook, NotesSequences) for hook in layer._forward_pre_hooks.values())


def _holds_gates(module: nn.Module) -> bool:
    """Whether a module holds an adapter with a gate that reads what the module is called with."""
    if not isinstance(module, AdapterLayerBase):
        return False
    held = (own for name in module.adapter_names() for _, own in module.modules_of(name))
    return any(getattr(own, "gate", None) is not None for own in held)


def refuse_without_sequence(states: torch.Tensor, place: Place) -> None:
    """Raise where what a gate reads has no dimension for the sequence: [tokens, H] in place of [B, L, H].

    Raises:
        UnsupportedMethodError: it has none.
    """
    if states.dim() < 3:
        raise UnsupportedMethodError(
            f"A gate is the mean over a sequence, but {place.location} of layer {place.layer} gets all tokens of a batch in one row."
            " Use use_gating=False, or leave the place out."
        )
