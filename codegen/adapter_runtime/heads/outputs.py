"""From the outputs of a base model and the logits of a head to one of transformers' output classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from transformers.utils import ModelOutput

# What a head consumes; everything else that a base model gives is handed on.
_CONSUMED = frozenset({"last_hidden_state", "pooler_output"})


def with_logits(
    classes: Sequence[type[ModelOutput]], outputs: ModelOutput, loss: torch.Tensor | None, **logits: torch.Tensor
) -> ModelOutput:
    """The first of `classes` that can hold all that `outputs` holds, filled in.

    Args:
        classes: output classes from the narrowest to the widest; the last is taken where none holds everything.
        outputs: of the base model.
        loss: scalar or None.
        logits: the fields that the head computed, mostly ``logits``.
    """
    handed_on = {name: value for name, value in outputs.items() if name not in _CONSUMED}
    cls = next((cls for cls in classes if handed_on.keys() <= _names(cls)), classes[-1])
    known = _names(cls)
    values: dict[str, Any] = {name: value for name, value in handed_on.items() if name in known}
    return cls(loss=loss, **logits, **values)


def _names(cls: type[ModelOutput]) -> set[str]:
    return {field.name for field in fields(cls)}
