"""Widths and rates that a head takes from the config of its model, whatever the config calls them."""

from __future__ import annotations

from operator import attrgetter

from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.contract.config_values import config_value


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


def head_dropout(config: PreTrainedConfig) -> float:
    """The dropout of upstream's own heads: ``classifier_dropout`` where there is one, else that of hidden states."""
    for name in ("classifier_dropout", "hidden_dropout_prob"):
        value = config_value(config, name)
        if value is not None:
            return float(value)
    return 0.0
