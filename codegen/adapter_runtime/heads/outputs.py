"""From the outputs of a base model and the logits of a head to one of transformers' output classes, or one of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, overload

import torch
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast
from transformers.utils import ModelOutput

if TYPE_CHECKING:
    from transformers import Cache

HeadOutput: TypeAlias = ModelOutput | dict[str, torch.Tensor]  # a dict: of a head of a user's own

# What a head consumes; everything else that a base model gives is handed on.
_CONSUMED = frozenset({"last_hidden_state", "pooler_output"})


@dataclass
class DependencyParsingOutput(ModelOutput):
    """What `BiaffineParsingHead` gives.

    Attributes:
        loss: scalar, with labels.
        rel_preds: [B, L, L + 1, N], scores of relations.
        arc_preds: [B, L, L + 1], scores of arcs.
        hidden_states: of each layer of the base model, [B, L, H], where the call asks for them.
        attentions: of each layer, [B, heads, L, L], where the call asks for them.
    """

    loss: torch.Tensor | None = None
    rel_preds: torch.Tensor | None = None
    arc_preds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class CausalLMOutputWithMems(CausalLMOutputWithPast):
    """What a head that predicts the next token gives on a model that keeps states of its own between steps (XLNet).

    Attributes:
        mems: of each layer, [L, B, H].
    """

    mems: list[torch.Tensor] | None = None


@dataclass
class MultiHeadOutput(ModelOutput):
    """What several heads give in one call. Indexing by a number, iterating and `len` act on `head_outputs`.

    What the base model gives besides hidden states (cache, attentions, ...) is an entry of this output.

    Attributes:
        head_outputs: the output of each head, in the order in which the heads are active.
        loss: the sum of the losses of the heads that were given targets; None where no head was.
    """

    head_outputs: list[HeadOutput] | None = None
    loss: torch.Tensor | None = None

    @property
    def logits(self) -> torch.Tensor:
        """The logits of all heads, one below the other: rows are those of the first head, then of the second, ..."""
        return torch.cat([output["logits"] for output in self.head_outputs or ()], dim=0)

    @overload
    def __getitem__(self, key: int) -> HeadOutput: ...

    @overload
    def __getitem__(self, key: slice[int | None, int | None, int | None]) -> list[HeadOutput]: ...

    @overload
    def __getitem__(self, key: str) -> torch.Tensor | tuple[torch.Tensor, ...] | list[HeadOutput] | Cache | None: ...

    def __getitem__(
        self, key: int | slice[int | None, int | None, int | None] | str
    ) -> HeadOutput | list[HeadOutput] | torch.Tensor | tuple[torch.Tensor, ...] | Cache | None:
        if isinstance(key, (int, slice)):
            return (self.head_outputs or [])[key]
        return super().__getitem__(key)

    def __setitem__(self, key: int | str, value: HeadOutput | torch.Tensor | Cache | None) -> None:
        if isinstance(key, int):
            assert self.head_outputs is not None
            self.head_outputs[key] = value
        else:
            super().__setitem__(key, value)

    def __iter__(self) -> Iterator[HeadOutput]:
        return iter(self.head_outputs or ())

    def __len__(self) -> int:
        return len(self.head_outputs or ())

    def __bool__(self) -> bool:
        return True

    def to_tuple(self) -> tuple[HeadOutput | torch.Tensor, ...]:
        """The loss, if there is one, then the outputs of the heads as tuples."""
        outputs = tuple(output.to_tuple() if isinstance(output, ModelOutput) else output for output in self)
        return outputs if self.loss is None else (self.loss, *outputs)


def multi_head_output(outputs: ModelOutput, head_outputs: list[HeadOutput]) -> MultiHeadOutput:
    """The outputs of several heads, with the sum of their losses and all that heads do not consume of `outputs`."""
    given = [output["loss"] if "loss" in output else None for output in head_outputs]
    losses = [loss for loss in given if loss is not None]
    result = MultiHeadOutput(head_outputs=head_outputs, loss=sum(losses[1:], losses[0]) if losses else None)
    for name, value in outputs.items():
        if name not in _CONSUMED:
            result[name] = value
    return result


def of_encoder(outputs: ModelOutput, states: torch.Tensor) -> ModelOutput:
    """Of the outputs of a model with a decoder, what its encoder gave, with `states` [B, L, H] as its last ones."""
    return BaseModelOutput(
        last_hidden_state=states,
        hidden_states=outputs.get("encoder_hidden_states"),
        attentions=outputs.get("encoder_attentions"),
    )


def with_logits(
    classes: Sequence[type[ModelOutput]], outputs: ModelOutput, loss: torch.Tensor | None, **logits: torch.Tensor
) -> ModelOutput:
    """The first of `classes` that can hold all that `outputs` holds, or most of it, filled in.

    Args:
        classes: output classes from the narrowest to the widest; where none holds everything, the first that holds most is taken.
        outputs: of the base model.
        loss: scalar or None.
        logits: the fields that the head computed, mostly ``logits``, [B, ...].
    """
    handed_on = {name: value for name, value in outputs.items() if name not in _CONSUMED}
    # Not by dataclasses.fields, which torch.compile cannot look through.
    held = [sum(name in cls.__dataclass_fields__ for name in handed_on) for cls in classes]
    cls = classes[held.index(max(held))]
    values = {name: value for name, value in handed_on.items() if name in cls.__dataclass_fields__}
    return cls(loss=loss, **logits, **values)
