"""Prefix tuning in PEFT's format: keys and values themselves, whatever MLP they were trained with."""

from __future__ import annotations

import logging

import torch

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError, UnsupportedMethodError, listing
from adapter_runtime.methods.common.peft_format import (
    PeftFile,
    PeftFormat,
    Tensors,
    refuse_unknown,
)
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prefix_tuning.places import prefixes_of
from adapter_runtime.methods.prefix_tuning.rotation import rotary_module, turned

logger = logging.getLogger(__name__)

EMBEDDINGS = "prompt_embeddings"
SHAPE_OPTIONS = ("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim")
_LOCATION = "self_prefix"
_POSITIONS = (
    "PEFT counts the positions of tokens from the prefix on, here they are counted from 0, and the positions of a {model}"
    " are not relative."
)


def read(model: AdaptedModel, saved: PeftFile) -> tuple[PrefixTuningConfig, Tensors]:
    """The config and tensors that give the same outputs here as the prefix does in PEFT.

    Where PEFT counts positions in a way that makes outputs differ, `saved.strict` decides between an error and a warning.

    Raises:
        AdapterFileError: the tensors are not those of a prefix, or do not fit the document.
        AdapterMismatchError: the prefix is for another number of layers.
        UnsupportedMethodError: the model or an option has no counterpart in the other library.
    """
    document = saved.document
    refuse_unknown(document, SHAPE_OPTIONS, ("encoder_hidden_size", "init_weights", "prefix_projection"))
    states = only_embeddings(saved.tensors)
    base = model.adapters_base
    if base.config.is_encoder_decoder or document.get("num_transformer_submodules") not in (None, 1):
        raise UnsupportedMethodError("PEFT gives encoder and decoder one prefix; here each has its own.")
    length = int(states.shape[0])
    heads = document.get("num_attention_heads") or 0
    if not heads or states.shape[1] % (2 * heads):
        raise AdapterFileError(f"PEFT's document gives {heads} heads, which {list(states.shape)} numbers do not fit.")
    layers = len(list(base.iter_layers()))
    per_head = states.shape[1] // (2 * heads)
    if per_head % layers:
        raise AdapterMismatchError(
            f"PEFT's prefix is of a model with {document.get('num_layers')} layers; this one has {layers}."
        )
    # (P, 2L, heads, width) -> (L, 2, heads, P, width): key and value of each layer
    pairs = states.view(length, layers, 2, heads, per_head // layers).permute(1, 2, 3, 0, 4)
    keys, values = pairs[:, 0], pairs[:, 1]
    if rotary_module(base) is not None:
        keys = turned(base, keys, -length)
    else:
        _check_positions(model, saved.strict)
    flat = torch.stack([keys, values], dim=1).permute(3, 0, 1, 2, 4).reshape(-1)
    config = PrefixTuningConfig(flat=True, prefix_length=length, cross_prefix=False)
    base_path = "" if model.adapters_base is model else f"{model.base_model_prefix}."
    return config, {f"{base_path}prefix_tuning.prefix_tunings.{saved.name}.{_LOCATION}.control_trans": flat}


def only_embeddings(tensors: Tensors) -> torch.Tensor:
    """The one tensor that files of prompts and prefixes have, [P, ...].

    Raises:
        AdapterFileError: there are others, or it is missing.
    """
    foreign = tensors.keys() - {EMBEDDINGS}
    if foreign or EMBEDDINGS not in tensors:
        raise AdapterFileError(f"PEFT's file should hold {EMBEDDINGS} only, but has:\n{listing(tensors)}")
    return tensors[EMBEDDINGS]


def _check_positions(model: AdaptedModel, strict: bool) -> None:
    message = _POSITIONS.format(model=type(model.adapters_base).__name__)
    if strict:
        raise UnsupportedMethodError(
            f"{message} To load it all the same, and to pass position_ids that begin at the length of the prefix:"
            " strict=False. The model is unchanged."
        )
    logger.warning("%s Pass position_ids that begin at the length of the prefix.", message)


def write(model: AdaptedModel, name: str, config: PrefixTuningConfig) -> tuple[dict[str, Json], Tensors]:
    """The document, without what all methods have, and the tensors by PEFT's names.

    Raises:
        UnsupportedMethodError: PEFT has no counterpart.
    """
    base = model.adapters_base
    group = prefixes_of(base, name)
    if config.use_gating:
        raise UnsupportedMethodError("PEFT's prefix tuning has no counterpart of a gate (use_gating=True).")
    if list(group) != [_LOCATION] or config.leave_out:
        where = ", ".join(group)
        raise UnsupportedMethodError(
            f"PEFT puts a prefix into every self-attention of a decoder or encoder, here it is in: {where}"
            f" (leave_out={list(config.leave_out)})."
        )
    tuning = group[_LOCATION]
    if not tuning.is_uniform:
        raise UnsupportedMethodError("PEFT's prefix has the same heads in all layers, and values as wide as keys.")
    if rotary_module(base) is None:
        raise UnsupportedMethodError(_POSITIONS.format(model=type(base).__name__))
    heads, width, _ = tuning.shapes[0]
    length, layers = config.prefix_length, len(tuning.shapes)
    # As in `read`; dropout has no part in it
    pairs = tuning.flat_states().detach().view(length, layers, 2, heads, width).permute(1, 2, 3, 0, 4)
    keys = turned(base, pairs[:, 0], length)
    embeddings = torch.stack([keys, pairs[:, 1]], dim=1).permute(3, 0, 1, 2, 4).reshape(length, -1)
    document: dict[str, Json] = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": heads * width,
        "encoder_hidden_size": heads * width,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    return document, {EMBEDDINGS: embeddings}


FORMAT = PeftFormat[PrefixTuningConfig](
    peft_type="PREFIX_TUNING", read=read, write=write, writes=lambda config: True, marks=(EMBEDDINGS,), is_prompt=True
)
