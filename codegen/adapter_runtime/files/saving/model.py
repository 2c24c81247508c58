"""The adapters in the files of a whole model: their configs in its ``config.json``, their tensors among its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, apply_converters

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.files.keys import owner
from adapter_runtime.files.saving.envelope import write_interface
from adapter_runtime.methods.lora.modules.sharing import forget


def computes_anew(model: AdaptedModel) -> bool:
    """Whether upstream, which writes a model in the form of old checkpoints, would compute tensors of adapters for it, as those of weights.

    It tells weights by parts of their names, which those of adapters at the same projections have too: the order of rotary
    features (Kimi's) would be undone in the factors of LoRA.
    """
    keys = [key for key in model.state_dict() if owner(key)]
    known = getattr(model, "_weight_conversions", None)
    if not keys:
        return False
    conversions = get_model_conversion_mapping(model, add_legacy=False) if known is None else known
    reverse = [entry.reverse_transform() for entry in conversions if isinstance(entry, WeightConverter)]
    return any(apply_converters(key, reverse)[1] is not None for key in keys)


@contextmanager
def stored_with(
    model: AdaptedModel, folder: Path, state_dict: Mapping[str, torch.Tensor] | None
) -> Iterator[Mapping[str, torch.Tensor] | None]:
    """Let the config of a model name its adapters while upstream saves the model into `folder`.

    Args:
        state_dict: what the caller wants to write; None = that of the model.

    Yields:
        The state dict to write; None = that of the model.
    """
    attributes = model.config.__dict__
    attributes.pop("adapters", None)
    stored, state = stored_adapters(model, state_dict)
    if stored:
        attributes["adapters"] = stored
    try:
        yield state
        write_interface(model, folder)
    finally:
        attributes.pop("adapters", None)  # it would give the adapters to every further model made with this config


def stored_adapters(
    model: AdaptedModel, state_dict: Mapping[str, torch.Tensor] | None
) -> tuple[dict[str, Json], Mapping[str, torch.Tensor] | None]:
    """What a saved model says about its adapters in ``config.json``, and the state dict to write with it.

    Args:
        state_dict: what the caller wants to write; None = that of the model.

    Returns:
        An empty dict where there are no adapters. The state dict is None where it is simply that of the model.
    """
    merged = model.merged_adapters()
    kept = ModelAdaptersConfig()
    kept.adapters = {name: config for name, config in model.adapters_config.adapters.items() if name not in merged}
    kept.fusions = dict(model.adapters_config.fusions)
    kept.shared = dict(model.adapters_config.shared)
    for name in merged:
        forget(kept, name)
    if kept.shared:
        state_dict = with_copies(kept, model.state_dict() if state_dict is None else state_dict)
    if merged:
        state_dict = model.state_dict() if state_dict is None else state_dict
        state_dict = {key: tensor for key, tensor in state_dict.items() if owner(key) not in merged}
    return kept.to_dict() if kept.adapters else {}, state_dict


def with_copies(state: ModelAdaptersConfig, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict in which every adapter has a copy of what it shares: transformers writes no tensor twice."""
    followers = {name for names in state.shared.values() for name in names[1:]}
    return {key: tensor.clone() if owner(key) in followers else tensor for key, tensor in tensors.items()}
