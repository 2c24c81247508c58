"""Prompts for the class of a model type that generates, and full forwards of ever longer ones: of text alone, or with an image or a
sound in it.

Which inputs go along with the tokens (types, masks over places of images), and whether positions are given, is what upstream itself
decodes with: a mask of a sound may be as wide as a text by chance.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto as auto

from conformance import instances
from conformance.adapted import init_refuses, initialised, upstream_class
from conformance.outputs import fresh
from conformance.subjects import (
    BATCH,
    FIRST_TOKEN,
    PADS,
    Subject,
    architecture,
    base_architecture,
    model_class,
    padding_mask,
    random_tokens,
    upstream_is_built,
)

STEPS = 4
TOKENS, MASK = "input_ids", "attention_mask"
_MAPPINGS = (
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES",
)


@dataclass(frozen=True)
class Way:
    """How a prompt with more than tokens is made longer."""

    along: frozenset[str] = frozenset()  # inputs that have a place per token
    first_position: int | None = (
        0  # from which positions of real tokens count; None where none are given, or such along several axes
    )
    positions: tuple[
        Tensor, ...
    ] = ()  # those along several axes, of each step: an adapter may tell where padding moves all of them


@functools.cache
def generating(subject: Subject) -> Subject | None:
    """`subject` where it generates; else the class of its model type that does, around the same base model. None if there is none."""
    if subject.generates or subject.text:
        return subject if subject.generates else None
    if not upstream_is_built(subject) or init_refuses(subject):
        return None
    holder = type(initialised(subject).adapters_base)
    for name in _classes_that_generate(subject.model_type):
        kind = "encoder-decoder" if subject.kind == "encoder-decoder" else "decoder"
        found = replace(subject, architecture=name, kind=kind, label=name)
        if upstream_is_built(found) and (found.generates or has_more_than_tokens(found)) and not init_refuses(found):
            if type(initialised(found).adapters_base) is holder:
                return found
    return None


def _classes_that_generate(model_type: str) -> list[str]:
    names = [architecture(model_type, getattr(auto, mapping)) for mapping in _MAPPINGS]
    found = dict.fromkeys([*names, base_architecture(model_type)])
    return [name for name in found if name and model_class(name).can_generate()]


@functools.cache
def has_more_than_tokens(subject: Subject) -> bool:
    """It reads its prompts with an image or a sound in them."""
    if subject.text or subject.kind == "encoder-decoder":
        return False
    tokens = subject.padded_inputs().get(TOKENS)
    return isinstance(tokens, Tensor) and tokens.dim() == 2


def ways(subject: Subject) -> Iterator[Way]:
    """Those in which most goes along with the tokens first. Of a text alone there is one."""
    if not has_more_than_tokens(subject):
        yield Way(frozenset({TOKENS, MASK}))
        return
    inputs = subject.padded_inputs()
    shape = inputs[TOKENS].shape
    alike = {name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape[:2] == shape}
    beside = sorted(alike - {TOKENS, MASK, "position_ids"})
    for count in range(len(beside), -1, -1):
        for along in itertools.combinations(beside, count):
            yield Way(frozenset({TOKENS, MASK, *along}), None)


def prompts(subject: Subject, way: Way) -> dict[str, Any]:
    """Prompts with padding on the left; what an encoder-decoder encodes is padded on the right."""
    if has_more_than_tokens(subject):
        return _padded(subject, way)
    inputs = subject.padded_inputs("right" if subject.kind == "encoder-decoder" else "left")
    inputs.pop("decoder_input_ids", None)
    return inputs


def _padded(subject: Subject, way: Way) -> dict[str, Any]:
    """Rows with more in front of them: padding, and as many tokens as it takes that all are equally long."""
    inputs, room = subject.padded_inputs(), max(PADS)
    for name in ("position_ids", "decoder_input_ids"):  # `generate` makes them itself
        inputs.pop(name, None)
    inputs.setdefault(MASK, torch.ones_like(inputs[TOKENS]))
    mask = padding_mask(room, "left")
    front = plain_tokens(subject, room, seed=6).masked_fill(mask == 0, 0)
    for name in way.along:
        value = inputs[name]
        zeros = value.new_zeros(BATCH, room, *value.shape[2:])
        inputs[name] = torch.cat([{TOKENS: front, MASK: mask}.get(name, zeros).to(value.dtype), value], dim=1)
    return inputs


def plain_tokens(subject: Subject, length: int, seed: int) -> Tensor:
    """(B, length): none that an image or a sound stands for."""
    tokens = random_tokens(subject.config(), length, seed)
    return tokens.masked_fill(are_placeholders(subject, tokens), FIRST_TOKEN)


def are_placeholders(subject: Subject, tokens: Tensor) -> Tensor:
    """Where an image or a sound stands among tokens."""
    return torch.isin(tokens, torch.tensor(stands_for_more(subject.model_type), dtype=tokens.dtype))


def step_by_step(model: PreTrainedModel, inputs: dict[str, Any], way: Way) -> Tensor:
    """(B, steps, vocabulary): by one full forward per token, without a cache and without ``generate``."""
    steps = []
    given = dict(inputs)
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = torch.full((next(iter(inputs.values())).shape[0], 1), first_token(model))
    with torch.no_grad():
        for step in range(STEPS):
            outputs = model(**fresh(given), **_positions(model, given, way, step), use_cache=False)
            steps.append(outputs.logits[:, -1].float())
            given = _longer(given, _chosen(model, steps[-1]), way)
    return torch.stack(steps, dim=1)


def first_token(model: PreTrainedModel) -> int:
    """What a decoder starts from; any token where upstream leaves that to checkpoints (T5)."""
    stated = (model.generation_config.decoder_start_token_id, model.generation_config.bos_token_id)
    return next((token for token in stated if token is not None), 0)


def _positions(model: PreTrainedModel, given: dict[str, Any], way: Way, step: int) -> dict[str, Tensor]:
    """Positions of real tokens, as ``generate`` counts them."""
    if way.positions:
        return {"position_ids": way.positions[step]}
    first = way.first_position
    if model.config.is_encoder_decoder or first is None or "position_ids" not in _parameters(type(model)):
        return {}
    mask = given[MASK]
    return {"position_ids": (mask.cumsum(-1) - 1 + first).masked_fill(mask == 0, 0)}


@functools.cache
def stands_for_more(model_type: str) -> list[int]:
    """Tokens in whose places an image or a sound stands, or that a config names beside these: none of them is ever generated.

    No image would come with it, and upstream reads it as a token like others where none does: in the steps with a cache (Ovis 2).
    """
    put = {token for token, *_ in instances.read(model_type).recipes.get(TOKENS, {}).get("put", ())}
    return sorted(put | set(_named(instances.read(model_type).config().to_dict()))) if put else []


_OF_TEXT = {"pad", "bos", "eos", "sep", "cls", "unk", "mask", "start"}  # kinds of tokens that a text has by itself


def _named(config: Mapping[str, Any]) -> Iterator[int]:
    """The tokens that a config, or one inside of it, names for something else than text."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif re.search(r"token_(id|index)", str(name)) and not _OF_TEXT & set(str(name).split("_")):
            yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))


def _chosen(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """(B, 1)"""
    known = torch.arange(logits.shape[-1])  # what stands for an image need not be among what is predicted
    kept_out = torch.isin(known, torch.tensor(stands_for_more(model.config.model_type), dtype=known.dtype))
    return logits.masked_fill(kept_out, -torch.inf).argmax(-1, keepdim=True)


def _parameters(cls: type) -> set[str]:
    return set(inspect.signature(upstream_class(cls).forward).parameters)


def _longer(given: dict[str, Any], token: Tensor, way: Way) -> dict[str, Any]:
    """A token more; what goes along has there what it has at the last one."""
    if "decoder_input_ids" in given:
        return {**given, "decoder_input_ids": torch.cat([given["decoder_input_ids"], token], dim=1)}
    longer = {name: torch.cat([given[name], given[name][:, -1:]], dim=1) for name in way.along - {TOKENS}}
    return {**given, **longer, TOKENS: torch.cat([given[TOKENS], token], dim=1)}
