"""The inputs of a model that reads a text with an image or a sound in it, with other numbers of these: none, two in each row, two in one.

They are made from inputs with one in each row: a row stands twice in a longer one, and so does what belongs to it. Nothing says whether
upstream takes them; whoever uses them has to try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from conformance.prompts import MASK, TOKENS, are_placeholders, plain_tokens
from conformance.subjects import BATCH, Subject

Rows = Callable[[Tensor], Tensor]
OF_TEXT = (TOKENS, MASK)
OF_ENCODER = ("encoder_hidden_states", "encoder_attention_mask")  # what an encoder gave has a row for each row


def with_other_numbers(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """A label and inputs, as often as they can be made."""
    inputs = subject.padded_inputs()
    tokens = inputs.get(TOKENS)
    if subject.text or not isinstance(tokens, Tensor) or tokens.dim() != 2:
        return
    along = {name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape[:2] == tokens.shape}
    beside = inputs.keys() - {*OF_TEXT, "decoder_input_ids"}
    if not beside:
        return
    plain = plain_tokens(subject, tokens.shape[1], seed=8)
    none = {name: inputs[name] for name in (*OF_TEXT, "decoder_input_ids") if name in inputs}
    none[TOKENS] = torch.where(are_placeholders(subject, tokens), plain, tokens)
    yield "without images", none
    of_text = {name for name in along - set(OF_TEXT) if not inputs[name].is_floating_point()}
    if of_text and of_text < beside:  # boxes around words
        yield f"without images, with {', '.join(sorted(of_text))}", {
            **none,
            **{name: inputs[name] for name in of_text},
        }
    # What has an entry per token by chance (a sound of as many frames) has numbers.
    for texts in dict.fromkeys(map(frozenset, (along, of_text | along & set(OF_TEXT), along & set(OF_TEXT)))):
        if not inputs.keys() - texts - set(OF_ENCODER):
            continue
        for where, doubled in (
            ("", _each_row_twice),
            (" along an axis", _along_the_second_axis),
            (" along the last axis", _along_the_last_axis),
        ):
            if doubled is _along_the_last_axis and not _stand_side_by_side(inputs, texts):
                continue
            two = {name: _twice(name, value, texts, doubled) for name, value in inputs.items()}
            yield f"two images in a row{where}, {len(texts)} of the text", two
            if doubled is _along_the_second_axis and (counted := _counted(inputs, texts)):
                seen = {name: torch.cat([two[name], two[name]], dim=2) for name in counted}
                yield f"two images in a row{where} that the text counts, {len(texts)} of the text", {**two, **seen}
        some = {name: _twice(name, value, texts, _first_row_twice) for name, value in inputs.items()}
        longer = torch.cat([tokens, plain], dim=1)
        longer[0, tokens.shape[1] :] = tokens[0]
        of_plain = {name: _nothing_behind(inputs[name]) for name in texts - set(OF_TEXT)}
        yield f"two images in one row, {len(texts)} of the text", {**some, **of_plain, TOKENS: longer}


def _counted(inputs: dict[str, Any], texts: frozenset[str]) -> list[str]:
    """Inputs of the text that have an axis of images: which of these each token sees (Mllama)."""
    images = {value.shape[1] for name, value in inputs.items() if name not in texts and _has_axes(value, 2)}
    return sorted(name for name in texts if _has_axes(inputs[name], 3) and inputs[name].shape[2] in images)


def _stand_side_by_side(inputs: dict[str, Any], texts: frozenset[str]) -> bool:
    """The images of all rows stand in one."""
    return any(len(value) % BATCH > 0 for name, value in inputs.items() if name not in texts and _has_axes(value, 1))


def _has_axes(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() >= count


def _twice(name: str, value: Any, texts: frozenset[str], doubled: Rows) -> Any:
    if not isinstance(value, Tensor) or name == "decoder_input_ids":
        return value
    return torch.cat([value, value], dim=1) if name in texts else doubled(value)


def _each_row_twice(value: Tensor) -> Tensor:
    """[B * k, ...] -> [B * 2k, ...]: what belongs to a row stands twice."""
    return torch.cat([part for row in _rows(value) for part in (row, row)])


def _first_row_twice(value: Tensor) -> Tensor:
    first, *others = _rows(value)
    return torch.cat([first, first, *others])


def _rows(value: Tensor) -> tuple[Tensor, ...]:
    return value.split(len(value) // BATCH) if len(value) % BATCH == 0 else (value,)


def _along_the_second_axis(value: Tensor) -> Tensor:
    """[B, images, ...] -> [B, 2 * images, ...]"""
    return torch.cat([value, value], dim=1) if value.dim() > 1 else value


def _along_the_last_axis(value: Tensor) -> Tensor:
    """[1, ..., B * width] -> [1, ..., B * 2 * width]: of the images of all rows, which stand side by side, each twice; else as `_each_row_twice`."""
    if len(value) % BATCH == 0 or value.shape[-1] % BATCH:
        return _each_row_twice(value)
    return torch.cat([part for row in value.split(value.shape[-1] // BATCH, dim=-1) for part in (row, row)], dim=-1)


def _nothing_behind(value: Tensor) -> Tensor:
    """Only the first row goes on with what it has."""
    behind = torch.zeros_like(value)
    behind[0] = value[0]
    return torch.cat([value, behind], dim=1)
