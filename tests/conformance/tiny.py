"""A tiny configuration of any model type, by shrinking upstream's default one.

Sizes are recognised by the name of the field (`SIZES`), never by the model. Where that is not enough, ``tiny.toml`` has an
entry with a reason. Where do I add a field that no rule knows? A row of `SIZES` if its name says what it is, an entry in
``tiny.toml`` if only one model has it.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VOCAB_SIZE = 99
LAYERS = 2
HEADS = 4
KEY_HEADS = 2  # fewer than HEADS, so that a mix-up of the two shows
HIDDEN_SIZE = 32

# Name of a field (whole, as a regular expression) and the size it gets if upstream's default is larger. The first match
# counts. Sizes differ from each other wherever models allow it, so that a swapped pair of them cannot pass unnoticed.
SIZES: tuple[tuple[str, int], ...] = (
    (r"num_hidden_groups|num_nextn_predict_layers|first_k_dense_replace", 1),
    (r"num_(hidden|encoder|decoder|transformer|text|vision|audio)?_?(hidden_)?layers|num_layers?|n_layers?|depth", LAYERS),
    (r"(encoder|decoder|vision|text|predictor|mapping)_(num_)?(hidden_)?(layers|depth|num_layers)", LAYERS),
    (r"(num_|n_)?((multi_)?query_groups|(num_)?key_value_heads|kv_heads|num_kv_heads|head_kv|global_key_value_heads)", KEY_HEADS),
    (r"(\w+_)?(num_|n_)?(attention_|attn_|)heads?|(\w+_)?num_(\w+_)?heads|num_head", HEADS),
    (r"(qk_rope_head_dim|qk_rope_dim|rotary_dim)", 4),
    (r"(q|kv|o)_lora_rank", 16),
    (r"v_head_dim", 12),
    (r"(\w+_)?(head_dim|head_size|kv_channels|d_kv|attention_head_size|projection_size_per_head)", HIDDEN_SIZE // HEADS),
    (r"(n_routed|num_local|num)_experts|moe_num_experts|num_moe_experts|num_experts_total", 4),
    (r"(num_experts_per_tok|moe_k|moe_topk|top_k_experts|experts_per_token|num_selected_experts)", 2),
    (r"n_group|topk_group|n_shared_experts", 1),
    (r"(\w*moe_\w*|expert_)(intermediate|ffn|hidden)_(size|dim)", 24),
    (r"(\w+_)?(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|feed_forward_size|inner_dim|hidden_dim|dim_feedforward)", 40),
    (r"(\w+_)?(embedding_size|embedding_dim|word_embed_proj_dim|factorized_embedding_size)", 24),
    (r"(\w+_)?(hidden_size|d_model|n_embd|embed_dim|hidden_sizes?|model_dim|width|emb_dim|projection_dim|d_embed)|dim", HIDDEN_SIZE),
    (r"(\w+_)?vocab_size|(\w+_)?vocabulary_size", VOCAB_SIZE),
    (r"max_source_positions", 30),
    (r"(\w+_)?(max_position_embeddings|n_positions|n_ctx|max_target_positions|max_seq_len|max_length|max_seq_length|"
     r"max_sequence_length|seq_length|context_length|max_positions?)", 64),
    (r"image_size|input_size|img_size|crop_size", 16),
    (r"(\w+_)?patch_size|kernel_size_image", 4),
    (r"num_mel_bins|num_mel_filters", 10),
    (r"sliding_window", 4),  # shorter than the inputs of the checks, so that it hides something
    (r"attention_window|local_attention|attention_chunk_size|window_size", 16),
    (r"(\w+_)?layers_block_size|block_size|chunk_size", 8),
    (r"num_queries|num_query_tokens|num_latents", 6),
)  # fmt: skip
_SIZES = tuple((re.compile(pattern), size) for pattern, size in SIZES)

# Dropouts are switched on everywhere: a forward that draws random numbers in another order than upstream's must differ.
DROPOUT = 0.1
_DROPOUT = re.compile(r"(\w+_)?(dropout|pdrop|dropout_prob|dropout_p|dropout_rate)(_prob)?")


@functools.cache
def entries() -> Mapping[str, Mapping[str, Any]]:
    """``tiny.toml``: model type -> {"reason": ..., "set": {field: value}}."""
    with open(Path(__file__).with_name("tiny.toml"), "rb") as file:
        table = tomllib.load(file)
    for model_type, entry in table.items():
        unknown = set(entry) - {"reason", "set", "inputs"}
        if unknown or not entry.get("reason"):
            raise ValueError(f"tiny.toml, [{model_type}]: it needs a reason; unknown keys: {sorted(unknown)}")
    return table


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """A configuration of which the model fits into a few hundred kilobytes.

    Args:
        model_type: upstream's name, "llama".
        changes: fields that differ from the shrunk ones (``is_decoder=True``).

    Raises:
        KeyError: upstream has no such model type.
    """
    config_class = CONFIG_MAPPING[model_type]
    entry = entries().get(model_type, {}).get("set", {})
    fields = {**shrunk_fields(config_class()), **entry}
    for optional in ("", "num_key_value_heads", "attention_dropout"):  # harder cases, which some models refuse
        fields.pop(optional, None)
        try:
            return config_class(**{**fields, **changes})
        except Exception as refused:
            error = refused
    raise error


def shrunk_fields(default: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `default` that shrinking changes, with their new values; nested configurations as nested dicts."""
    fields: dict[str, Any] = {}
    for name, value in vars(default).items():
        if name.startswith("_"):
            continue
        if isinstance(value, list) and len(value) == vars(default).get("num_hidden_layers"):
            small: Any = _varied(value, LAYERS)  # one entry per layer: layer_types and its like
        else:
            small = shrunk(name, value)
        if small != value:
            fields[name] = small
    _fill_in_missing(default, fields)
    return fields


def shrunk(name: str, value: Any) -> Any:
    """What field `name` becomes."""
    if isinstance(value, PreTrainedConfig):
        return {"model_type": value.model_type, **shrunk_fields(value)}
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if _DROPOUT.fullmatch(name):
        return DROPOUT
    if name.endswith("_token_id") or name.endswith("_token_index"):
        return value if value < VOCAB_SIZE else VOCAB_SIZE - 1 - value % 7
    size = next((size for pattern, size in _SIZES if pattern.fullmatch(name)), value)
    return size if isinstance(value, int) and size < value else value


def _varied(values: list[Any], length: int) -> list[Any]:
    """`length` of `values`, with as many different ones as fit."""
    different = list(dict.fromkeys(values))
    return (different + values)[:length]


def _fill_in_missing(default: PreTrainedConfig, fields: dict[str, Any]) -> None:
    """Fields for which None means "as another one", or without which a padded batch is refused."""
    given = vars(default)
    if given.get("num_key_value_heads", 0) is None:
        fields["num_key_value_heads"] = KEY_HEADS  # "as many as heads" becomes fewer, which is the harder case
    if given.get("pad_token_id", 0) is None:
        fields["pad_token_id"] = 0
    if default.is_encoder_decoder and given.get("decoder_start_token_id", 0) is None:
        fields["decoder_start_token_id"] = 0


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter of `model` values large enough that each one matters for the outputs.

    Upstream's own initialisation (0.02, zero biases, unit norms) would hide a missing bias or a norm that is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point():
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.dtype)
            if parameter.dim() < 2:
                centre = 1.0 if bool((parameter == 1).all()) else 0.0
                parameter.copy_(centre + 0.1 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
