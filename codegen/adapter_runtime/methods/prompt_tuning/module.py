"""Prompt tuning: the learned embeddings of one prompt, and where they start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.contract.widths import embedding_width, norm_width
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.common.initialisation import seeded, weights_will_follow
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig


class Tokenizer(Protocol):
    """One of transformers' tokenizers."""

    def __call__(self, text: str, /) -> Mapping[str, Sequence[int]]: ...


class PromptTuning(nn.Module):
    """P learned embeddings (https://arxiv.org/abs/2104.08691).

    Args:
        config: the options.
        width: of the embeddings.
    """

    def __init__(self, config: PromptTuningConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.prompt_embedding = nn.Embedding(config.prompt_length, width)
        scale = config.random_uniform_scale
        with seeded(config.init_weights_seed):
            nn.init.uniform_(self.prompt_embedding.weight, -scale, scale)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The prompt [B, P, H] for states [B, L, H], in their type and on their device."""
        weight = self.prompt_embedding.weight
        if weight.dtype is not states.dtype or weight.device != states.device:
            weight = weight.to(states.device, states.dtype)
        return weight.expand(states.shape[0], -1, -1)

    def start_from(self, embeddings: torch.Tensor) -> None:
        """Take the embeddings [T, H] of a text, from its beginning, and again if it is shorter than the prompt.

        Raises:
            InvalidConfigError: they have another width.
        """
        weight = self.prompt_embedding.weight
        if embeddings.shape[-1] != weight.shape[-1]:
            raise InvalidConfigError(
                f"The embeddings of words are {embeddings.shape[-1]} wide, but those of the prompt {weight.shape[-1]}, so a "
                'prompt cannot start from a text here. Use prompt_init="random_uniform".'
            )
        repeats = -(-len(weight) // len(embeddings))
        with torch.no_grad():
            weight.copy_(embeddings.repeat(repeats, 1)[: len(weight)])


def text_embeddings(model: AdaptedBaseModel, text: str, tokenizer: Tokenizer) -> torch.Tensor:
    """The embeddings [T, H] of the tokens of a text, with the special tokens that the tokenizer adds.

    Args:
        model: a base model.
        tokenizer: one of transformers'.

    Raises:
        InvalidConfigError: the model has no table of embeddings of words, or the text no tokens, or tokens that the model does not have.
    """
    embeddings = _table_of_words(model)
    ids = torch.as_tensor(tokenizer(text)["input_ids"], dtype=torch.long)
    if ids.dim() != 1 or not len(ids):
        raise InvalidConfigError(f"The tokenizer makes no list of tokens of the text {text!r}.")
    if int(ids.max()) >= embeddings.num_embeddings:
        raise InvalidConfigError(
            f"The tokenizer gives token {int(ids.max())}, but the model has embeddings for {embeddings.num_embeddings}. "
            "Use the tokenizer that belongs to the model."
        )
    with torch.no_grad():
        # Not a call: hooks may run adapters.
        found: torch.Tensor = embeddings.forward(ids.to(embeddings.weight.device))
    return found


def _table_of_words(model: AdaptedBaseModel) -> nn.Embedding:
    """The table that a model has for tokens.

    Raises:
        InvalidConfigError: it has none.
    """
    embeddings = model.get_input_embeddings() if model.token_embeddings else None
    if not isinstance(embeddings, nn.Embedding):
        raise InvalidConfigError(
            f"A prompt cannot start from a text in {type(model.get_submodule('')).__name__}, which has no table of embeddings of words."
            ' Use prompt_init="random_uniform".'
        )
    return embeddings


def find_tokenizer(model: AdaptedBaseModel, config: PromptTuningConfig) -> Tokenizer:
    """The tokenizer that a config names, or else the one beside the checkpoint of the model, if it is on this machine.

    Raises:
        InvalidConfigError: there is none.
    """
    from transformers import AutoTokenizer

    named = config.tokenizer_name_or_path
    source = named or model.config.name_or_path
    remedy = (
        "Name one with tokenizer_name_or_path=..., or add the adapter with prompt_init='random_uniform' and call "
        "model.initialise_prompt(name, text, tokenizer)."
    )
    if not source:
        raise InvalidConfigError(
            f"A prompt that starts from a text needs a tokenizer, and the model was not loaded from anywhere. {remedy}"
        )
    try:
        found: Tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=named is None)
    except (OSError, ValueError, KeyError) as error:
        raise InvalidConfigError(
            f"A prompt that starts from a text needs a tokenizer, but none could be read from {source!r} "
            f"({error}). {remedy}"
        ) from error
    return found


def initialise_prompt(tuning: PromptTuning, model: AdaptedBaseModel) -> None:
    """Give a new prompt the start that its config asks for.

    Raises:
        InvalidConfigError: it shall start from a text, and cannot; see `check_start`.
    """
    if _starts_from_text(tuning.config) and not tuning.prompt_embedding.weight.is_meta:
        tuning.start_from(_embeddings_of_start(model, tuning.config))


def check_start(config: PromptTuningConfig, model: AdaptedBaseModel) -> None:
    """Raise where `initialise_prompt` would.

    Raises:
        InvalidConfigError: the prompt shall start from a text, and there is no tokenizer, or the embeddings of words have another width.
    """
    if _starts_from_text(config) and not torch.empty(0).is_meta:
        with torch.device("meta"):
            tuning = PromptTuning(config, prompt_width(model, config))
        tuning.start_from(_embeddings_of_start(model, config).to("meta"))


def _starts_from_text(config: PromptTuningConfig) -> bool:
    return config.prompt_init == "from_string" and not weights_will_follow()


def _embeddings_of_start(model: AdaptedBaseModel, config: PromptTuningConfig) -> torch.Tensor:
    """The embeddings [T, H] of the text that a config names."""
    _table_of_words(model)  # without one, a tokenizer would not help
    return text_embeddings(model, config.prompt_init_text or "", find_tokenizer(model, config))


def goes_to_tokens(model: AdaptedBaseModel, insert_at: str) -> bool:
    """Whether a prompt of a base model stands among the embeddings of tokens, and not behind a module that adds to them.

    Where the table of tokens is no part of such a module, upstream goes on to use what comes out of the table: for masks, say.

    Raises:
        UnsupportedMethodError: the model has no table of token embeddings, and the prompt shall go in there.
    """
    if insert_at == "token_embeddings" and not model.token_embeddings:
        raise UnsupportedMethodError(
            f"{type(model).__name__} has no table of token embeddings. Use insert_at='embedding_output'."
        )
    holds_table = model.token_embeddings.startswith(f"{model.embedding_output}.")
    return bool(model.token_embeddings) and (insert_at == "token_embeddings" or not holds_table)


def prompt_width(model: AdaptedBaseModel, config: PromptTuningConfig) -> int:
    """Width of the embeddings where a prompt of `config` goes in.

    Raises:
        UnsupportedMethodError: the model has no table of token embeddings, and the prompt shall go in there.
    """
    if goes_to_tokens(model, config.insert_at):
        return _token_width(model)
    output = model.get_submodule(model.embedding_output)
    norms = [int(module.normalized_shape[-1]) for module in output.modules() if isinstance(module, nn.LayerNorm)]
    norms = norms or [width for module in output.children() if (width := norm_width(module)) is not None]
    if norms:  # embeddings may be projected, but are normalised at the end
        return norms[-1]
    if model.token_embeddings:
        return _token_width(model)
    return next(layer for _, layer in model.adapted_layers()).stream_width()


def _token_width(model: AdaptedBaseModel) -> int:
    """Width of the table of token embeddings."""
    return embedding_width(model.get_submodule(model.token_embeddings))
