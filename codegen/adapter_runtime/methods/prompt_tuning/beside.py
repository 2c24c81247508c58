"""What else has one entry per token where a prompt goes in among their embeddings, and what stands there for the prompt.

Kinds of tokens: a prompt is text, 0. A mask of which images each token sees (Idefics): a token sees those in front of it, so a prompt,
which stands in front of all, sees none. Other masks of what is seen beside the text do not grow: no token of a decoder stands in front
of what an encoder gave.

Letters of shapes: B rows, L tokens, P positions of the prompt, N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from adapter_runtime.call.arguments import Argument
from adapter_runtime.methods.prompt_tuning.insertion import Insertion

_TYPES = "token_type_ids"
_IMAGES = "image_attention_mask"  # [B, L, N]; of more dimensions, it is one of places in images (Phi-4 multimodal)


def with_prompt(
    insertion: Insertion, given: Mapping[str, Argument], tokens: torch.Size
) -> Iterator[tuple[str, torch.Tensor]]:
    """The arguments with one entry per token of `tokens` [B, L, ...], with zeros for the prompt: [B, L, ...] -> [B, L + P, ...]."""
    types, images = given.get(_TYPES), given.get(_IMAGES)
    if isinstance(types, torch.Tensor):
        yield _TYPES, _with_zeros(insertion, types)
    if isinstance(images, torch.Tensor) and images.dim() == 3 and images.shape[:2] == tokens[:2]:
        yield _IMAGES, _with_zeros(insertion, images)


def _with_zeros(insertion: Insertion, entries: torch.Tensor) -> torch.Tensor:
    return insertion.into(entries, entries.new_zeros(entries.shape[0], insertion.length, *entries.shape[2:]))
