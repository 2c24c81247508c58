"""Which rows and which targets each of several heads gets.

Letters of shapes: B rows of the outputs of the base model, L tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias, overload

import torch
from transformers.utils import ModelOutput

from adapter_runtime.call.division import RowDivision
from adapter_runtime.composition import AdapterCompositionBlock, Parallel
from adapter_runtime.errors import InvalidCompositionError
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.setups import HeadSetup
from adapter_runtime.programs.blocks import divider_of

Rows: TypeAlias = "slice[int, int, None] | torch.Tensor | None"  # of a batch: a range, or indices [R]; None = all
# As outputs of a model hold them; a number is the same for all rows.
Tensors: TypeAlias = "torch.Tensor | float | tuple[Tensors, ...] | list[Tensors] | None"
# A target in a call: for all heads, for each by name, or for each in their order.
Target: TypeAlias = (
    "torch.Tensor | float | Mapping[str, torch.Tensor | None] | list[torch.Tensor] | list[torch.Tensor | None]"
    " | tuple[torch.Tensor | None, ...]"
)


@dataclass(frozen=True)
class Part:
    """What one head of a call works on."""

    rows: Rows  # its rows of the outputs
    total: int  # rows of the outputs: B
    is_copy: bool  # its rows are a copy of the whole batch

    @overload
    def of(self, value: torch.Tensor) -> torch.Tensor: ...

    @overload
    def of(self, value: float) -> float: ...

    @overload
    def of(self, value: None) -> None: ...

    @overload
    def of(self, value: Tensors) -> Tensors: ...

    def of(self, value: Tensors) -> Tensors:
        """The rows of a tensor [B, ...], or of those in a tuple, that belong to this part.

        Anything else, such as a tensor without B rows, is the same for all parts.
        """
        if self.rows is None:
            return value
        if isinstance(value, torch.Tensor):
            return value[self.rows] if value.dim() > 0 and value.shape[0] == self.total else value
        if isinstance(value, (tuple, list)):
            return type(value)(self.of(entry) for entry in value)
        return value

    def of_outputs(self, outputs: ModelOutput) -> ModelOutput:
        """The outputs of the base model for this part, without its cache, which cannot be divided."""
        if self.rows is None:
            return outputs
        kept = {name: self.of(value) for name, value in outputs.items() if _is_divisible(value)}
        return type(outputs)(**kept)

    def is_empty(self) -> bool:
        """Whether no row of the batch is for this head."""
        return isinstance(self.rows, torch.Tensor) and self.rows.shape[0] == 0


def _is_divisible(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, (tuple, list)) and all(entry is None or _is_divisible(entry) for entry in value)
    )


def divide(setup: HeadSetup, heads: int, outputs: ModelOutput, copies: int) -> list[Part]:
    """The part of each head.

    Args:
        setup: the heads that run.
        heads: their number.
        outputs: of the base model; ``last_hidden_state`` is [B, L, H].
        copies: how many copies of the batch `outputs` holds, one after the other: one per parallel adapter.

    Raises:
        InvalidCompositionError: the numbers of heads, parallel adapters or rows do not fit together.
    """
    hidden_states = outputs["last_hidden_state"]
    total = hidden_states.shape[0]
    # The heads of `Parallel` see all rows, or each the copy of its adapter: below.
    if isinstance(setup, AdapterCompositionBlock) and not isinstance(setup, Parallel):
        divider = divider_of(setup)
        assert divider is not None  # `parse_heads` lets no other blocks pass
        return [Part(rows, total, False) for rows in _rows_of(divider.divide(hidden_states, " among heads"))]
    if copies == 1:
        return [Part(None, total, False)] * heads
    if heads not in (1, copies) or total % copies:
        raise InvalidCompositionError(
            f"There are {copies} parallel adapters but {heads} active heads. Give one head per adapter, in the same order,"
            " or one for all."
        )
    size = total // copies
    return [Part(slice(i * size, (i + 1) * size), total, True) for i in range(copies)]


def _rows_of(division: RowDivision) -> Iterator[Rows]:
    """The rows of each child."""
    if division.order is not None:
        yield from torch.split(division.order, division.sizes)
        return
    for end, size in zip(accumulate(division.sizes), division.sizes, strict=True):
        yield slice(end - size, end)


def targets_of(
    given: Mapping[str, Target], heads: Sequence[PredictionHead], parts: Sequence[Part], optional: Container[str] = ()
) -> list[dict[str, torch.Tensor | float]]:
    """The targets, and other arguments of their own, of each head.

    A tensor is for all heads that take such an argument: the same for all that see the whole batch, or a copy of it, and
    else divided as the batch is. A dict gives each head one of its own by name, a list one for each in their order.

    Args:
        given: the arguments by name; tensors for all heads are [B, ...], or for copies of a batch have its rows once.
        heads: one for each part.
        parts: what each head works on.
        optional: names of arguments that no head must take.

    Raises:
        ValueError: something is given that no head takes, or for a head that does not run.
    """
    found: list[dict[str, torch.Tensor | float]] = [{} for _ in parts]
    for name, value in given.items():
        if name not in optional:
            _check_takers(name, value, heads)
        for index, (head, part) in enumerate(zip(heads, parts, strict=True)):
            own = _target_of(head, part, name, value, index, len(parts))
            if own is not None and not part.is_empty():
                found[index][name] = own
    return found


def _target_of(
    head: PredictionHead, part: Part, argument: str, value: Target, index: int, count: int
) -> torch.Tensor | float | None:
    """The target of one head, the head at `index` of `count`; None where it has none."""
    if isinstance(value, Mapping):
        return value.get(head.name)
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise ValueError(f"A list of targets has one entry per head: {count}, not {len(value)}.")
        return value[index]
    if not head.takes(argument):
        return None
    is_divided = part.rows is not None and not part.is_copy
    if is_divided and isinstance(value, torch.Tensor) and value.dim() and len(value) != part.total:
        raise ValueError(
            f"{argument} has {len(value)} rows, but the batch that is divided among heads has {part.total}."
        )
    return part.of(value)


def _check_takers(argument: str, value: Target, heads: Sequence[PredictionHead]) -> None:
    """Raise where `argument` is given to a head that does not take it, or that does not run."""
    if isinstance(value, Mapping):
        unknown = sorted(value.keys() - {head.name for head in heads})
        if unknown:
            active = ", ".join(repr(head.name) for head in heads)
            raise ValueError(f"{argument} names the heads {', '.join(map(repr, unknown))}, but {active} are active.")
        wanted = [head for head in heads if value.get(head.name) is not None]
    elif isinstance(value, (list, tuple)):
        wanted = [head for head, entry in zip(heads, value, strict=False) if entry is not None]
    else:
        wanted = [] if any(head.takes(argument) for head in heads) else list(heads)
    for head in wanted:
        if not head.takes(argument):
            takes = " and ".join(head.label_arguments)
            raise ValueError(f"The {head.head_type} head {head.name!r} takes {takes}, not {argument}.")
