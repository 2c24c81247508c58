"""Prompts in a model made of several, whose root prepares what the model that reads the tokens is called with.

Such a root (LLaVA's and its kin) embeds tokens itself, writes features of images over some of them, and may make positions on several
axes and masks of its own. A prompt that came in behind all that would be unknown to it. So its positions are reserved at the entry of
the root: tokens without meaning, ones in the mask, moved positions. What the root makes of them is then as long as the tokens and the prompt,
and at the entry of the part the prompt is written over what was embedded there.

Letters of shapes: B rows, L tokens, P positions of the prompt, A axes of positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers.utils import ModelOutput

from adapter_runtime.call.arguments import Argument, Outputs
from adapter_runtime.call.context import CallSlot, thread
from adapter_runtime.call.seen import cache_among, past_positions
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.call import (
    PromptCall,
    PromptSites,
    PromptSlot,
    after_call,
    check_room,
    checked_mask,
    embedded,
    insertion_of,
)
from adapter_runtime.methods.prompt_tuning.insertion import Insertion
from adapter_runtime.methods.prompt_tuning.program import Prompts

# Arguments with one entry per token that are known. Kinds of tokens: those of a prompt are text, 0.
_TYPES = ("token_type_ids", "mm_token_type_ids")
# Of sounds and images, which may happen to be as long as the text.
_OF_OTHERS = ("feature", "pixel", "input_values")
_PER_TOKEN = frozenset({"input_ids", "inputs_embeds", "attention_mask", "position_ids", *_TYPES})
_TARGETS = "labels"  # a class with a head may hand them down (Gemma 3)
_NO_TARGET = -100  # that of positions that count in no loss


class Reserved(CallSlot):
    """The prompt for which the root of the current call has reserved positions."""

    is_of_whole = True

    def __init__(self) -> None:
        self.call: PromptCall | None = None
        self.part: AdaptedBaseModel | None = None  # which the prompt goes into
        self.length = 0  # L + P
        self.ends_in_head = False  # the root itself has one, which reads tokens and prompt


def reserved_call(part: AdaptedBaseModel) -> Reserved | None:
    """What the root has reserved for a part in the current call; None where it has reserved nothing."""
    slot = thread.context.find(Reserved) if thread.context is not None else None
    return slot if slot is not None and slot.part is part else None


def reserves(root: AdaptedBaseModel, part: AdaptedBaseModel, sites: PromptSites) -> bool:
    """Whether a root takes tokens for the part that reads them embedded, and goes on from a cache.

    The prompt of an encoder-decoder stands in its encoder, which puts it in itself: InstructBLIP's config does not say that its T5 is one.
    """
    if root.config.is_encoder_decoder or sites.is_encoder_decoder or sites.holds_tokens:
        return False
    of_root, of_part = (inspect.signature(type(model.get_submodule("")).forward).parameters for model in (root, part))
    return "input_ids" in of_root and {"inputs_embeds", "past_key_values"} <= of_part.keys()


def reserve(
    root: AdaptedBaseModel,
    part: AdaptedBaseModel,
    sites: PromptSites,
    prompts: Prompts,
    given: dict[str, Argument],
) -> dict[str, Argument]:
    """The arguments of the root, with positions for the prompt of the part that reads the tokens.

    Args:
        sites: of the part.

    Raises:
        UnsupportedMethodError: the mask or the positions cannot grow, a static cache has no room, or an argument has one entry per
            token and is not known.
    """
    context = thread.context
    assert context is not None
    cache, past = cache_among(given), past_positions(given)
    mask = checked_mask(given.get("attention_mask"))
    call = PromptCall(prompts, insertion_of(prompts, mask, sites), past)
    slot = context.slot(Reserved)
    slot.call = context.slot(PromptSlot).call = call
    slot.part, slot.ends_in_head = part, root.runs_head()
    tokens = next(t for name in ("input_ids", "inputs_embeds") if isinstance(t := given.get(name), torch.Tensor))
    slot.length = tokens.shape[1] + prompts.length
    context.of_tokens = {"input_ids": tokens, "attention_mask": mask, "past_key_values": cache}
    check_room(cache, prompts.length, mask, tokens.shape[1])
    changed = dict(given) if mask is None else {**given, "attention_mask": call.grow_mask(mask)}
    positions = given.get("position_ids")
    if isinstance(positions, torch.Tensor):
        changed["position_ids"] = _moved(call, positions)
    if call.is_first:
        call.is_in = True
        changed |= dict(_with_columns(root, call.insertion, given, tokens))
    return changed


def _moved(call: PromptCall, positions: torch.Tensor) -> torch.Tensor:
    """Positions [B, L] or [A, B, L] behind a prompt."""
    if not call.is_first:
        return positions + call.insertion.length
    if positions.dim() == 2:
        return call.insertion.into_positions(positions)
    return torch.stack([call.insertion.into_positions(axis) for axis in positions])


def _with_columns(
    root: AdaptedBaseModel, insertion: Insertion, given: Mapping[str, Argument], tokens: torch.Tensor
) -> Iterator[tuple[str, torch.Tensor]]:
    """The arguments with one entry per token, with P further ones: [B, L, ...] -> [B, L + P, ...].

    Raises:
        UnsupportedMethodError: there is one that is not known.
    """
    rows = tokens.shape[0]
    for name, value in given.items():
        if not isinstance(value, torch.Tensor) or value.shape[:2] != tokens.shape[:2]:
            continue
        if any(word in name for word in _OF_OTHERS):
            continue
        if name == _TARGETS and not root.runs_head():
            yield name, insertion.into(value, value.new_full((rows, insertion.length), _NO_TARGET))
            continue
        if name not in _PER_TOKEN:
            raise UnsupportedMethodError(
                f"A prompt needs positions among the tokens, and {name} has one entry per token of shape {list(value.shape)}: what"
                " stands there for a prompt is not known. Leave it out, or use prefix tuning."
            )
        if name in ("attention_mask", "position_ids"):
            continue
        fill = free_token(root.config.to_dict()) if name == "input_ids" else 0
        yield name, insertion.into(value, value.new_full((rows, insertion.length, *value.shape[2:]), fill))


def free_token(config: Mapping[str, Any]) -> int:
    """The least number of a token that a config, or one inside of it, has no special use for."""
    used = set(_special_tokens(config))
    return next(token for token in range(len(used) + 1) if token not in used)


def _special_tokens(config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _special_tokens(value)
        elif "token" in str(name):
            yield from (entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, int))


def after_reserved(outputs: Outputs) -> Outputs:
    """The outputs of a root for which positions were reserved; for a head, those of real tokens only.

    Where the root ends in a head itself (ColPali), that read the prompt too. Its own output comes first, behind a loss: a tensor [B, L + P, ...],
    or fewer of the last positions, where the call asks for these alone.
    """
    context = thread.context
    slot = context.find(Reserved) if context is not None else None
    if slot is None or not slot.ends_in_head:
        return after_call(outputs)
    if slot.call is None or not slot.call.is_in:
        return outputs
    fields = outputs.items() if isinstance(outputs, ModelOutput) else enumerate(outputs)
    key, states = next(((k, v) for k, v in fields if isinstance(v, torch.Tensor) and v.dim() > 1), (None, None))
    if states is None or states.shape[1] != slot.length:
        return outputs
    shortened = slot.call.insertion.out_of(states)
    if isinstance(outputs, ModelOutput):
        outputs[key] = shortened
        return outputs
    return tuple(shortened if place == key else value for place, value in enumerate(outputs))


def write_over(
    part: AdaptedBaseModel, sites: PromptSites, reserved: Reserved, given: dict[str, Argument]
) -> dict[str, Argument]:
    """The arguments of the part that reads the tokens, with the prompt at the reserved positions.

    Raises:
        UnsupportedMethodError: the part is called with other positions than the root was.
    """
    call = reserved.call
    assert call is not None
    if not call.is_first:
        return given
    embeddings = embedded(sites, part, given)
    if embeddings.shape[1] != reserved.length:
        raise UnsupportedMethodError(
            f"{type(part).__name__} is called with {embeddings.shape[1]} positions, where tokens and prompt have {reserved.length}:"
            " where the prompt stands among them is not known. Use prefix tuning."
        )
    return {**given, "input_ids": None, "inputs_embeds": call.put_into(call.insertion.out_of(embeddings))}
