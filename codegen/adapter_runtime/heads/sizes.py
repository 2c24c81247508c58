"""Widths and rates that a head takes from the config of its model, whatever the config calls them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.contract.config_values import config_value, field_of
from adapter_runtime.contract.head_config import StaticHeadConfig
from adapter_runtime.contract.registry import registered


def feeding_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The config of what gives the hidden states that the heads of `model` read: of one part, where it is made of several."""
    path: str = getattr(model, "head_config", "")
    config: PreTrainedConfig = attrgetter(path)(model.config) if path else model.config
    return config


def hidden_size(config: PreTrainedConfig) -> int:
    """Width of the last hidden state, which some models project to the width of their embeddings in the end, or of what shortens
    the frames of a sound (``add_adapter``, upstream's name for convolutions behind the layers of Wav2Vec2).

    Raises:
        ValueError: the config does not say.
    """
    shortened = config_value(config, "output_hidden_size") if getattr(config, "add_adapter", False) is True else None
    width = shortened or config_value(config, "word_embed_proj_dim") or config_value(config, "hidden_size")
    if width is None:
        raise ValueError(f"{type(config).__name__} has no hidden size; heads cannot be added to its models.")
    return int(width)


def embedding_size(config: PreTrainedConfig) -> int:
    """Width of the token embeddings, to which a language modelling head can be tied."""
    return int(config_value(config, "embedding_size") or hidden_size(config))


def vocabulary_size(config: PreTrainedConfig) -> int:
    """How many tokens there are.

    Raises:
        ValueError: the config does not say.
    """
    size = config_value(config, "vocab_size")
    if size is None:
        raise ValueError(f"{type(config).__name__} has no vocabulary; its models predict no tokens.")
    return size


def input_scale(config: PreTrainedConfig) -> float:
    """The factor of the hidden states before they become tokens: the first release of T5 has one, by this flag."""
    return float(hidden_size(config) ** -0.5) if getattr(config, "scale_decoder_outputs", False) else 1.0


def upstream_head(model: PreTrainedModel, head_type: str) -> StaticHeadConfig:
    """What upstream's class with a head of this type has on such a model, before a config fills it in; empty where there is none."""
    found = registered().heads.get(type(model.config).__name__, {})
    return found.get(head_type.removeprefix("multilabel_"), {"head_type": head_type})


def head_dropout(model: PreTrainedModel, head_type: str) -> float:
    """The dropout of upstream's own head of this type, if it has one. Else ``classifier_dropout`` where the config has that, else that of
    hidden states, as in `adapters`.
    """
    of_upstream = _first_number(model, upstream_head(model, head_type).get("dropout_rates", ()))
    if of_upstream is not None:
        return of_upstream
    for name in ("classifier_dropout", "hidden_dropout_prob"):
        value = config_value(feeding_config(model), name)
        if value is not None:
            return float(value)
    return 0.0


def first_dropout(model: PreTrainedModel, head_type: str, layers: int) -> float:
    """The dropout before the first projection: that of the others, but where upstream's head with as many projections has another."""
    upstream = upstream_head(model, head_type)
    rates = upstream.get("first_dropout_rates", ()) if upstream.get("layers") == layers else ()
    of_upstream = _first_number(model, rates)
    return head_dropout(model, head_type) if of_upstream is None else of_upstream


def _first_number(model: PreTrainedModel, rates: Sequence[str | float]) -> float | None:
    """The first of `rates`, of fields of the config and numbers, that is given."""
    given = (field_of(model.config, rate) if isinstance(rate, str) else rate for rate in rates)
    return next((float(one) for one in given if isinstance(one, (int, float)) and not isinstance(one, bool)), None)
