"""What the layers know about the call they run in: `AdapterSetup` overrides, and values shared within one forward.

Both live in one thread-local object. (`torch.compile` reads thread-local attributes and guards on them; it cannot
read `contextvars`. The attributes must be set per instance: on class attributes it does not guard.)
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Sequence
from types import TracebackType
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import torch

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.crossing import RowWatch
from adapter_runtime.call.recording import Scores
from adapter_runtime.call.rows import TaskRows, TokenSpans
from adapter_runtime.composition import AdapterCompositionBlock, Setup, parse_composition


class ThreadState(threading.local):
    """State of the current thread."""

    def __init__(self) -> None:
        self.setup: AdapterSetup | None = None
        self.context: ForwardContext | None = None


thread = ThreadState()


class Place(NamedTuple):
    """Where a module of an adapter stands. Values that the module records are filed under it."""

    adapter: str
    layer: int
    location: str  # "output_adapter", "selfattn_lora", ...


def record(argument: str, place: Place, values: torch.Tensor, columns: bool = True) -> None:
    """Keep what a module computes if the call asks for it.

    Args:
        argument: the argument of the call that asks for such values: "output_adapter_gating_scores".
        place: where the module stands.
        values: [B, ...].
        columns: keep the values as [B, G], with all dimensions after the first flattened into G.
    """
    context = thread.context
    if context is not None and argument in context.recorded:
        context.recorded[argument].add(*place, values, columns=columns)


GATING_SCORES = "output_adapter_gating_scores"


def record_gate(place: Place, gate: torch.Tensor) -> None:
    """Keep a gate [B, ..., G] if the call asks for gating scores."""
    record(GATING_SCORES, place, gate)


class AdapterSetup:
    """Within the context, models of this thread run `adapter_setup` in place of their active adapters.

    Args:
        adapter_setup: a name, a block, or None for no adapters at all.
        head_setup: heads to use instead of the active ones.
        ignore_empty: accepted for compatibility; a setup of None always means no adapters.
    """

    def __init__(self, adapter_setup: Setup, head_setup: Setup = None, ignore_empty: bool = False) -> None:
        self.adapter_setup = parse_composition(adapter_setup)
        self.head_setup = head_setup
        self.key = repr(self.adapter_setup)  # layers cache the program of this setup under it
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
    def get_context_adapter_setup(cls) -> AdapterCompositionBlock | None:
        """The adapters that the innermost setup of this thread runs; None without a setup, or for one without adapters."""
        return thread.setup.adapter_setup if thread.setup else None

    @classmethod
    def get_context_head_setup(cls) -> Setup:
        """The heads that the innermost setup of this thread names; None without a setup, or for one that names none."""
        return thread.setup.head_setup if thread.setup else None


class ComputedOnce(Protocol):
    """What a call computes once for many layers: the prefixes of an adapter, weights that its layers share."""

    key: str  # unique in a model

    def states(self) -> Sequence[tuple[torch.Tensor, ...]]:
        """The computed tensors, with gradients, in tuples as the method needs them."""


class CallSlot:
    """Base of what a method keeps in a `ForwardContext`: one object per call, of a class of the method's own."""

    is_of_whole: ClassVar[bool] = False  # whether calls of parts see that of the model made of them

    def recomputed(self) -> CallSlot | None:
        """The slot for a layer that gradient checkpointing recomputes, where `ForwardContext.computed` holds other tensors.

        None = a new, empty slot.
        """
        return self


Slot = TypeVar("Slot", bound=CallSlot)


class ForwardContext:
    """Values computed once in a call of a model and used by many layers.

    A context spans one call of a model, or one `generate`: then what is computed once outlives the single call.

    Args:
        owner: the base model, by which calls of the same model inside of this one are recognised.
        generation: the context of an enclosing `generate` of the same model.
        is_generation: whether this is such a context.
    """

    def __init__(
        self, owner: Hashable = None, generation: ForwardContext | None = None, is_generation: bool = False
    ) -> None:
        self.owner = owner
        self.generation = generation
        self.is_generation = is_generation
        # Rows per row that was given: more than 1 with beam search, or with several returned sequences.
        self.rows_per_input: int = 1 if generation is None else generation.rows_per_input
        # Rows of the call, of one copy where it has several; None where the active adapters need not know.
        self.rows: int | None = None
        # The input has a copy per parallel adapter.
        self.is_repeated: bool = generation is not None and generation.is_repeated
        self.computed: dict[str, list[tuple[torch.Tensor, ...]]] = {} if generation is None else generation.computed
        # "encoder", "self" (decoders, and models of one stack) -> real tokens; "" -> what is real of images or sounds
        self.spans: dict[str, TokenSpans] = {}
        # Which rows belong to which child of `MultiTask`.
        self.task_rows: TaskRows | None = None if generation is None else generation.task_rows
        # Arguments that tell where the tokens are, where a prompt has its place among those that the part which reads them is given
        self.of_tokens: dict[str, Argument] = {}
        self.is_in_base = False  # the base model's own forward runs, after the adapters that act at its entry
        self.has_head = False  # the call is one of a model with a head, which reads real tokens only
        self.recorded: dict[str, Scores] = {}  # by argument of the call that asks for them
        self._slots: dict[type[CallSlot], CallSlot] = {}
        self._of_parts: dict[Hashable, ForwardContext] = {}  # what is kept of parts, in a model made of several
        self.entered: set[Hashable] = set()  # base models, also in such a model, whose forward was called
        self.ran: set[Hashable] = set()  # of these, those whose layers ran, by their forward or past it
        self.is_between_parts = False  # the model is made of several, and none of their forwards runs
        self.past_parts: tuple[ComputedOnce, ...] = ()  # what layers ask for that are called there
        self.watch: RowWatch | None = None  # where rows of parts must not be compared with each other
        # Parts of whose inputs not each row shows one. A generation is given the tokens that tell it, and not each call in it.
        self.unshown: frozenset[Hashable] = frozenset() if generation is None else generation.unshown

    def of_part(self, part: Hashable) -> ForwardContext:
        """A context for one call of a part of the model: what is known of tokens and kept by methods is of that part alone.

        What the part computes once is kept for its later calls in this one; where its tokens are is told anew by each.
        """
        kept = self._kept_of(part)
        other = copy.copy(self)
        other.generation = None if self.generation is None else self.generation._kept_of(part)
        other.computed = kept.computed
        other.spans, other.is_between_parts = {}, False
        other._slots = {kind: slot for kind, slot in self._slots.items() if kind.is_of_whole}
        return other

    def _kept_of(self, part: Hashable) -> ForwardContext:
        if part not in self._of_parts:
            kept = self._of_parts[part] = copy.copy(self)
            kept.generation = None
            kept.computed = {} if self.generation is None else self.generation._kept_of(part).computed
            kept.spans, kept._slots = {}, {}
        return self._of_parts[part]

    def slot(self, kind: type[Slot]) -> Slot:
        """The slot of this class; created, empty, where there is none yet."""
        found = self._slots.get(kind)
        if not isinstance(found, kind):
            found = self._slots[kind] = kind()
        return found

    def find(self, kind: type[Slot]) -> Slot | None:
        """The slot of this class; None where there is none yet."""
        found = self._slots.get(kind)
        return found if isinstance(found, kind) else None

    def put(self, slot: CallSlot) -> None:
        """Keep `slot`, in place of an earlier one of its class."""
        self._slots[type(slot)] = slot

    def copied(self) -> ForwardContext:
        """A copy of this context; setting attributes or slots of one leaves the other unchanged."""
        other = copy.copy(self)
        other._slots = dict(self._slots)
        return other

    def states_of(self, computation: ComputedOnce) -> list[tuple[torch.Tensor, ...]]:
        """The tensors of `computation`: computed when they are first asked for in this call, then reused."""
        states = self.computed.get(computation.key)
        if states is None:
            states = self.computed[computation.key] = list(computation.states())
        return states

    def state_tensors(self) -> list[torch.Tensor]:
        """All tensors of `computed`, in a fixed order, of which no later layer of the call makes more."""
        for computation in self.past_parts if self.is_between_parts else ():
            self.states_of(computation)
        return [tensor for states in self.computed.values() for state in states for tensor in state]

    def with_states(self, tensors: Sequence[torch.Tensor]) -> ForwardContext:
        """A copy of this context with `tensors` in place of `state_tensors`, as many and of the same shapes [...].

        Where they are the very same tensors, the context itself.
        """
        if all(new is old for new, old in zip(tensors, self.state_tensors(), strict=True)):
            return self
        given = iter(tensors)
        other = copy.copy(self)
        other.computed = {
            key: [type(state)(*(next(given) for _ in state)) for state in states]
            for key, states in self.computed.items()
        }
        kept = {kind: slot.recomputed() for kind, slot in self._slots.items()}
        other._slots = {kind: slot for kind, slot in kept.items() if slot is not None}
        return other

    def without_recording(self) -> ForwardContext:
        """This context without records, for a layer that runs again: its first run has recorded the values already."""
        if not self.recorded:
            return self
        other = copy.copy(self)
        other.recorded = {}
        return other

    @classmethod
    def get_context(cls) -> ForwardContext | None:
        """The innermost context of this thread."""
        return thread.context


class ContextScope:
    """Make `context` the current one of the thread, for a ``with`` block."""

    def __init__(self, context: ForwardContext) -> None:
        self.context = context

    def __enter__(self) -> ForwardContext:
        self.outer = thread.context
        thread.context = self.context
        return self.context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        thread.context = self.outer
