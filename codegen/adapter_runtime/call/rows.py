"""Rows of a batch: which belong to which task, and where their real tokens are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from adapter_runtime.call.arguments import Argument
from adapter_runtime.composition import Child, MultiTask
from adapter_runtime.errors import InvalidCompositionError, UnsupportedMethodError


class TaskRows:
    """The rows of a batch, sorted by task.

    Args:
        tasks: [B], for each row the number of the child of `MultiTask` that it belongs to.
    """

    def __init__(self, tasks: torch.Tensor) -> None:
        self.tasks = tasks
        self.order = torch.argsort(tasks, stable=True)  # [B]: rows of the first task, of the second, ...
        self.inverse = torch.argsort(self.order)  # [B]: from there back to the order of the batch
        self.counts: list[int] = torch.bincount(tasks).tolist()
        self._others: dict[tuple[int, torch.device], TaskRows] = {}

    @classmethod
    def read(cls, task_ids: torch.Tensor | Iterable[Argument], block: MultiTask) -> TaskRows:
        """From the argument ``task_ids`` of a call: a tensor [B] of numbers, or B numbers or names of adapters.

        Raises:
            InvalidCompositionError: a name or number stands for no child of `block`, or the shape is not [B].
        """
        if not isinstance(task_ids, torch.Tensor):
            names = {name: index for index, child in enumerate(block) for name in _names(child)}
            given = list(task_ids)
            wrong = [task for task in given if isinstance(task, str) and task not in names]
            if wrong:
                raise InvalidCompositionError(f"task_ids names {wrong[0]!r}, but the tasks are {', '.join(names)}.")
            task_ids = torch.tensor([names[task] if isinstance(task, str) else task for task in given])
        if task_ids.dim() != 1 or task_ids.is_floating_point():
            raise InvalidCompositionError(f"task_ids has one number per row, not the shape {list(task_ids.shape)}.")
        if task_ids.numel() and not (int(task_ids.min()) >= 0 and int(task_ids.max()) < len(block)):
            raise InvalidCompositionError(
                f"task_ids holds {int(task_ids.min())} to {int(task_ids.max())}, but MultiTask has {len(block)} children."
            )
        return cls(task_ids.long())

    def of(self, rows: int, device: torch.device) -> TaskRows:
        """These tasks for a tensor with `rows` rows, in which each row of the batch may be several rows: one per token.

        Raises:
            InvalidCompositionError: `rows` is no multiple of the batch.
        """
        if rows == len(self.tasks) and device == self.tasks.device:
            return self
        if rows == 0 or rows % len(self.tasks):
            raise InvalidCompositionError(f"There are {len(self.tasks)} task_ids, but {rows} rows.")
        if (rows, device) not in self._others:
            repeats = rows // len(self.tasks)
            self._others[rows, device] = TaskRows(self.tasks.to(device).repeat_interleave(repeats))
        return self._others[rows, device]

    def sizes(self, tasks: int) -> list[int]:
        """How many rows each of `tasks` tasks has; 0 for tasks without rows in the batch."""
        return self.counts + [0] * (tasks - len(self.counts))


def _names(child: Child) -> set[str]:
    """The names in a child of a block."""
    return {child} if isinstance(child, str) else child.flatten()


@dataclass(frozen=True)
class TokenSpans:
    """Where the real tokens of each row are. Positions count from the start of the sequence, with padding and cached tokens.

    Attributes:
        first: [B], the position of the first real token.
        end: [B], the position after the last real token of the prompt. Tokens that are generated come later.
        past: positions that a cache holds already: the tokens of this call begin there. A static cache counts in a tensor.
        length: the number of positions of this call, padding and prompts too.
    """

    first: torch.Tensor
    end: torch.Tensor
    past: int | torch.Tensor
    length: int

    @classmethod
    def read(
        cls, mask: Argument, rows: int, length: int, past: int | torch.Tensor, shift: int, device: torch.device
    ) -> TokenSpans:
        """Find the real tokens by the attention mask of a call.

        `generate` with a static cache gives a mask [B, 1, L, K] of what each token attends to, or several of them by the
        kind of layer: then the keys that any token attends to are the real ones. (With a sliding window, the last token by
        itself does not attend to the first ones.)

        Args:
            mask: [B, past + L], 1 at real tokens; None where all are real.
            rows: B.
            length: L, tokens of this call.
            past: positions in the cache, those of a prompt too.
            shift: positions of prompts, in front of all tokens; they are part of the first call only.
        """
        keys = mask_of_keys(mask)
        if shift and not bool(past):
            length += shift
        if keys is None:
            first = torch.full((rows,), shift, device=device)
            return cls(first, torch.zeros_like(first) + past + length, past, length)
        real = keys.to(torch.bool).int()
        first = real.argmax(dim=-1) + shift
        return cls(first, first + real.sum(dim=-1), past, length)

    def after(self, prompt: TokenSpans) -> TokenSpans:
        """These spans in a later step of a generation: rows begin and end where they do in `prompt`, the spans of its first call.

        That may have been read before each row was repeated, once for each beam.
        """
        beams, others = divmod(len(self.end), len(prompt.end))
        if others or not beams:
            return self
        first, end = (spans.repeat_interleave(beams) for spans in (prompt.first, prompt.end))
        return TokenSpans(first, end, self.past, self.length)


def mask_of_keys(mask: Argument) -> torch.Tensor | None:
    """The mask of keys [B, K] that any attention mask of a call amounts to; None without a mask.

    Args:
        mask: [B, K], or [B, 1, L, K], or several of the latter by kind of layer.

    Raises:
        UnsupportedMethodError: the mask does not show which tokens are real.
    """
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2):
        return mask
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4:
        raise UnsupportedMethodError(
            f"An active adapter needs to know which tokens are real, and a mask of type {type(mask).__name__} does not show "
            "it. Give a mask of shape (batch, length)."
        )
    attended = mask[:, 0] if mask.dtype is torch.bool else mask[:, 0] >= 0
    return attended.any(dim=1)
