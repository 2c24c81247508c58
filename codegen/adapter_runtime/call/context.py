"""What the layers know about the call they run in: `AdapterSetup` overrides, and values shared within one forward.

Both live in one thread-local object. (`torch.compile` reads thread-local attributes and guards on them; it cannot
read `contextvars`. The attributes must be set per instance: on class attributes it does not guard.)
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from adapter_runtime.call.recording import Scores
from adapter_runtime.composition import Setup, parse_composition

if TYPE_CHECKING:
    from adapter_runtime.call.rows import TaskRows, TokenSpans
    from adapter_runtime.methods.prefix_tuning.masks import GrownMask
    from adapter_runtime.methods.prefix_tuning.module import LayerPrefix, PrefixTuning
    from adapter_runtime.methods.prompt_tuning.call import PromptCall


class ThreadState(threading.local):
    """State of the current thread."""

    def __init__(self) -> None:
        self.setup: AdapterSetup | None = None
        self.context: ForwardContext | None = None


thread = ThreadState()


class Place(NamedTuple):
    """Where a module of an adapter stands: under this what it computes is recorded."""

    adapter: str
    layer: int
    location: str  # "output_adapter", "selfattn_lora", ...


def record_gate(place: Place, gate: torch.Tensor) -> None:
    """Keep a gate [B, ..., G] if the call asks for gating scores."""
    context = thread.context
    if context is not None and context.gating_scores is not None:
        context.gating_scores.add(*place, gate)


def record_fusion(name: str, layer: int, location: str, attention: torch.Tensor) -> None:
    """Keep the attention [B, L, N] of the fusion `name` if the call asks for such attentions."""
    context = thread.context
    if context is not None and context.fusion_attentions is not None:
        context.fusion_attentions.add(name, layer, location, attention, columns=False)


class AdapterSetup:
    """Within the context, models of this thread run `adapter_setup` in place of their active adapters.

    Args:
        adapter_setup: a name, a block, or None for no adapters at all.
        head_setup: heads to use instead of the active ones.
        ignore_empty: accepted for compatibility; a setup of None always means no adapters.
    """

    def __init__(self, adapter_setup: Setup, head_setup: Any = None, ignore_empty: bool = False) -> None:
        self.adapter_setup = parse_composition(adapter_setup)
        self.head_setup = head_setup
        self.key = repr(self.adapter_setup)  # under which layers remember what it means for them
        self._outer: list[AdapterSetup | None] = []

    def __enter__(self) -> AdapterSetup:
        self._outer.append(thread.setup)
        thread.setup = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread.setup = self._outer.pop()

    @classmethod
    def get_context(cls) -> AdapterSetup | None:
        """The innermost setup of this thread."""
        return thread.setup

    @classmethod
    def get_context_adapter_setup(cls) -> Any:
        return thread.setup.adapter_setup if thread.setup else None

    @classmethod
    def get_context_head_setup(cls) -> Any:
        return thread.setup.head_setup if thread.setup else None


class ForwardContext:
    """Values computed once in a call of a model and used by many layers.

    A context spans one call of a model, or one `generate`: then its prefix states outlive the single call.

    Args:
        owner: the base model.
        generation: the context of an enclosing `generate` of the same model.
        is_generation: whether this is such a context.
    """

    def __init__(
        self, owner: Any = None, generation: ForwardContext | None = None, is_generation: bool = False
    ) -> None:
        self.owner = owner
        self.generation = generation
        self.is_generation = is_generation
        self.rows_per_input: int = (
            1 if generation is None else generation.rows_per_input
        )  # beams: rows for each one given
        self.is_repeated: bool = (
            generation is not None and generation.is_repeated
        )  # the input has a copy per parallel adapter
        self.prefix_states: dict[str, list[Any]] = {} if generation is None else generation.prefix_states
        self.batched_prefixes: dict[str, list[LayerPrefix]] = {}  # the same states for the rows of the current call
        self.grown_masks: list[GrownMask] = []  # the last masks that grew for prefixes
        self.spans: dict[str, TokenSpans] = {}  # "encoder", "self" (decoders, and models of one stack) -> real tokens
        self.edited_positions: dict[Any, Any] = {}  # of ReFT, once for all layers: see layers/positions.py
        self.task_rows: TaskRows | None = None  # which rows belong to which child of `MultiTask`
        self.prompt_length = 0  # positions of a learned prompt in front of the tokens
        self.prompt: PromptCall | None = None  # what happens to it in the current call of the base model
        self.is_in_base = False  # the base model's own forward runs, where what happens at its entry has happened
        self.has_head = False  # the call is one of a model with a head, which reads real tokens only
        self.around_encoder: tuple[ForwardContext | None] | None = (
            None  # in an encoder with a prompt: the outer context
        )
        self.gating_scores: Scores | None = None  # None: the call does not ask for them
        self.fusion_attentions: Scores | None = None

    def states_of(self, tuning: PrefixTuning) -> list[Any]:
        """Prefix keys and values of all layers, computed when first asked for."""
        states = self.prefix_states.get(tuning.key)
        if states is None:
            states = self.prefix_states[tuning.key] = list(tuning.states())
        return states

    def state_tensors(self) -> list[torch.Tensor]:
        """The keys and values of all prefix states, in a fixed order."""
        return [tensor for layers in self.prefix_states.values() for layer in layers for tensor in layer]

    def with_states(self, tensors: Sequence[torch.Tensor]) -> ForwardContext:
        """This context with other tensors in place of `state_tensors`; itself where they are the same."""
        if all(new is old for new, old in zip(tensors, self.state_tensors(), strict=True)):
            return self
        given = iter(tensors)
        other = copy.copy(self)
        other.prefix_states = {
            key: [type(layer)(*(next(given) for _ in layer)) for layer in layers]
            for key, layers in self.prefix_states.items()
        }
        other.grown_masks, other.batched_prefixes = [], {}
        return other

    def without_recording(self) -> ForwardContext:
        """This context for a computation that is done a second time."""
        if self.gating_scores is None and self.fusion_attentions is None:
            return self
        other = copy.copy(self)
        other.gating_scores = other.fusion_attentions = None
        return other

    @classmethod
    def get_context(cls) -> ForwardContext | None:
        """The innermost context of this thread."""
        return thread.context


class ContextScope:
    """Make `context` the current one of the thread, for a ``with`` block."""

    def __init__(self, context: ForwardContext | None) -> None:
        self.context = context

    def __enter__(self) -> None:
        self.outer = thread.context
        thread.context = self.context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread.context = self.outer
