"""What models can do with prompts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_masks_for_generate

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.call import insertion_of
from adapter_runtime.methods.prompt_tuning.module import (
    PromptTuning,
    Tokenizer,
    find_tokenizer,
    text_embeddings,
)
from adapter_runtime.methods.prompt_tuning.places import prompts_of
from adapter_runtime.methods.prompt_tuning.program import Prompts
from adapter_runtime.programs.dynamic import DynamicMixin


class PromptTuningMixin:
    """Methods of every model with adapters."""

    def initialise_prompt(
        self: AdaptedModel, adapter_name: str, text: str, tokenizer: Tokenizer | None = None
    ) -> None:
        """Let the prompt of an adapter start from the embeddings of a text (https://arxiv.org/abs/2104.08691).

        Args:
            text: its tokens, with the special ones that the tokenizer adds, are taken from the beginning, and again if
                there are fewer than the prompt has positions.
            tokenizer: one of transformers' that belongs to the model; None = the one that the adapter's config names, or
                that lies beside the checkpoint of the model.

        Raises:
            UnknownAdapterError: there is no such adapter.
            UnsupportedMethodError: it has no prompt.
            InvalidConfigError: there is no tokenizer, or it is that of another model.
        """
        self.adapters_config.get(adapter_name)
        part = self.adapters_base.text_part
        held = prompts_of(part).prompt_tunings if part is not None else nn.ModuleDict()
        if part is None or adapter_name not in held:
            raise UnsupportedMethodError(
                f"Adapter {adapter_name!r} has no prompt among the tokens that the model reads. Add one with prompt tuning."
            )
        tuning = held[adapter_name]
        assert isinstance(tuning, PromptTuning)
        if tokenizer is None:
            tokenizer = find_tokenizer(self.adapters_base, tuning.config)
        tuning.start_from(text_embeddings(part, text, tokenizer))


def _mask_of_tokens(
    own: Callable[..., Any] | None, prompt: int, *, attention_mask: torch.Tensor | None = None, **rest: Any
) -> torch.Tensor | None:
    """The mask [B, L] that is given, or [B, cache - P] where a model's own function fills one up to the length of a static cache (BLOOM)."""
    made = None if own is None else own(attention_mask=attention_mask, **rest)
    if attention_mask is None or not isinstance(made, torch.Tensor) or made.dim() != 2:
        return attention_mask
    return made[:, : made.shape[1] - prompt] if made.shape[1] > attention_mask.shape[1] else attention_mask


def without_prompt(base: AdaptedBaseModel, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """What the encoder of a base model gave, [B, L + P, H], without a prompt among its tokens: [B, L, H].

    Args:
        base: a base model with a decoder, after its call.
        states: of its encoder. Without a prompt that runs there, they stay as they are.
        mask: [B, L] of the call, or [rows, L] of which `states` has several copies.
    """
    part = base.text_part
    layer = None if part is None else prompts_of(part)
    prompts = None if layer is None else layer.current_program()
    if layer is None or prompts is None or layer.sites is None or not layer.sites.is_encoder_decoder:
        return states
    if mask is not None and len(mask) != len(states):
        mask = mask.repeat(len(states) // len(mask), 1)
    return insertion_of(prompts, mask, layer.sites).out_of(states)


class PromptGenerationMixin(DynamicMixin):
    """What `generate` must know of a prompt: caches hold it, masks and tokens that `generate` counts do not.

    `create_masks_for_generate` is a property, so that models of upstream's that bring their own keep it.
    """

    @property
    def adapters_base(self) -> AdaptedBaseModel:
        """The base model, which holds the prompts."""
        raise NotImplementedError

    def _prompt_length(self) -> int:
        """Positions of the prompt that decoders see in front of their tokens."""
        prompts, part = self._running_prompts(), self.adapters_base.text_part
        if prompts is None or part is None:
            return 0
        return 0 if self.config.is_encoder_decoder and self._is_of_encoder(part) else prompts.length

    def _is_of_encoder(self, part: AdaptedBaseModel) -> bool:
        """Whether the encoder of an encoder-decoder model reads the tokens, and not its decoder, as that of images does."""
        return bool(part.config.is_encoder_decoder) or part.get_submodule("") in set(self.get_encoder().modules())

    def _running_prompts(self) -> Prompts | None:
        part = self.adapters_base.text_part
        return None if part is None else prompts_of(part).current_program()

    def _prepare_static_cache(self, *args: Any, max_cache_len: int, **kwargs: Any) -> Any:
        """See transformers. The cache has room for the prompt too."""
        return super()._prepare_static_cache(*args, max_cache_len=max_cache_len + self._prompt_length(), **kwargs)

    @property
    def create_masks_for_generate(self) -> Callable[..., Any]:
        """See transformers. With a prompt, the base model makes the masks of its layers from the mask of the tokens."""
        own: Callable[..., Any] | None = getattr(super(), "create_masks_for_generate", None)
        prompt = self._prompt_length()
        return functools.partial(_mask_of_tokens, own, prompt) if prompt else own or create_masks_for_generate

    def _prefill(
        self, input_ids: torch.Tensor, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """See transformers. Continuing from a cache, upstream drops one token per cached position; those of a prompt are none.

        Raises:
            UnsupportedMethodError: it continues from a cache in a way in which upstream would drop too many tokens.
        """
        prompt, cache = self._prompt_length(), model_kwargs.get("past_key_values")
        if prompt and generation_config.prefill_chunk_size is not None:
            self._check_chunks(model_kwargs.get("attention_mask"), generation_config.prefill_chunk_size)
        past = int(cache.get_seq_length()) if prompt and cache is not None else 0
        if past:
            if model_kwargs.get("inputs_embeds") is not None or generation_config.prefill_chunk_size is not None:
                raise UnsupportedMethodError(
                    "With a prompt, generate() goes on from a cache with input_ids and without prefill_chunk_size only."
                )
            mask = model_kwargs.get("attention_mask")
            total = getattr(generation_config, "_mask_length", -1) if mask is None else mask.shape[1]
            if total == input_ids.shape[1]:  # all tokens, also those in the cache
                input_ids = input_ids[:, past - prompt :]
        return super()._prefill(input_ids, generation_config, model_kwargs, *args, **kwargs)

    def _check_chunks(self, mask: torch.Tensor | None, size: int) -> None:
        """Raise where the first chunk of a batch does not hold the token of a row that the prompt stands beside.

        Args:
            mask: [B, L], of the tokens; None = all are real.
            size: how many tokens are in a chunk.
        """
        part = self.adapters_base.text_part
        assert part is not None
        if mask is not None and prompts_of(part).follows_padding() and not bool(mask[:, :size].any(dim=-1).all()):
            raise UnsupportedMethodError(
                f"A prompt goes in beside the first real token of a row, with the first chunk, but the first {size} of some row are "
                "padding. Generate without prefill_chunk_size, with a larger one, or without padding."
            )
