"""What a call of a model must prepare, found once when adapters are activated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from adapter_runtime.call.context import ComputedOnce
from adapter_runtime.composition import AdapterCompositionBlock, BatchSplit, MultiTask
from adapter_runtime.errors import InvalidCompositionError, UnsupportedMethodError
from adapter_runtime.programs.blocks import divider_of
from adapter_runtime.programs.layer import AdapterLayerBase
from adapter_runtime.programs.nodes import Node


@dataclass(frozen=True)
class CallPlan:
    """What a call must prepare. A call whose plan is idle goes straight to upstream's forward."""

    computed: tuple[ComputedOnce, ...] = ()  # once per call, before the layers run
    copies: int = 1  # of the input, one per child of `Parallel`
    tasks: MultiTask | None = None  # whose children get rows by ``task_ids``
    divides_rows: bool = False  # some block gives its children rows of the batch
    assigns_rows: bool = False  # not the same rows to all: it must be known which row is which
    runs: bool = False  # some layer runs an adapter
    past_parts: tuple[
        ComputedOnce, ...
    ] = ()  # what layers of parts ask for that are called past the forward of their part
    in_parts: bool = False  # parts of the model, which have plans of their own, need something
    reads_spans: bool = False  # some layer needs to know where the real tokens are
    reads_context: bool = False  # some layer needs to know that a call of the model runs
    at_entry: tuple[AdapterLayerBase, ...] = ()  # layers that change the arguments of the base model, and its outputs
    at_root: tuple[AdapterLayerBase, ...] = ()  # those of parts that change the arguments of the model made of them
    added_positions: int = 0  # how many positions these layers put in front of the tokens
    is_idle: bool = field(init=False)  # nothing of the above is needed

    def __post_init__(self) -> None:
        # (torch.compile cannot negate a tuple.)
        has_own = len(self.computed) > 0 or len(self.at_entry) > 0 or self.tasks is not None or self.in_parts
        object.__setattr__(
            self, "is_idle", not (has_own or self.divides_rows or self.reads_spans or self.reads_context)
        )


IDLE = CallPlan()


def plan_call(
    block: AdapterCompositionBlock | None,
    layers: Sequence[tuple[AdapterLayerBase, Node | None]],
    computed: Iterable[ComputedOnce],
) -> CallPlan:
    """The plan for `block`.

    Args:
        block: the adapters that run; None = none.
        layers: all modules that hold adapters, each with the program that runs there.
        computed: what the adapters of the block compute once per call.

    Raises:
        InvalidCompositionError: rows are assigned to tasks in several ways.
        UnsupportedMethodError: one adapter puts positions between tokens that another one counts.
    """
    if block is None:
        return IDLE
    running = [(layer, program) for layer, program in layers if program is not None]
    tasks = [found for found in block.blocks() if isinstance(found, MultiTask)]
    if len(set(tasks)) > 1:
        raise InvalidCompositionError(f"One call can have one assignment of rows to tasks, but {block!r} has several.")
    reads_spans = any(layer.reads_spans for layer, _ in running)
    if reads_spans and any(program.is_between_tokens for _, program in running):
        raise UnsupportedMethodError(
            f"In {block!r}, a prompt stands between the tokens of a row, but another adapter counts these from the first on. "
            'Use combine="prefix" for the prompt.'
        )
    at_entry = [(layer, program) for layer, program in running if layer.acts_at_entry]
    return CallPlan(
        computed=tuple(computed),
        copies=block.parallel_channels,
        tasks=tasks[0] if tasks else None,
        divides_rows=any(divider_of(found) is not None for found in block.blocks()),
        assigns_rows=any(isinstance(found, (BatchSplit, MultiTask)) for found in block.blocks()),
        runs=bool(running),
        reads_spans=reads_spans,
        reads_context=any(
            layer.reads_context or any(node.reads_sequence for node in program.walk()) for layer, program in running
        ),
        at_entry=tuple(sorted((layer for layer, _ in at_entry), key=lambda layer: layer.entry_order)),
        added_positions=sum(program.added_positions for _, program in at_entry),
    )


def joined(plans: Sequence[CallPlan], reading: CallPlan) -> CallPlan:
    """What a call of a model made of parts must prepare, by the plans of these: what is done for all of them together.

    Args:
        reading: the plan of the part that reads the tokens: for others, nothing is prepared at the root.
    """
    if all(plan.is_idle for plan in plans):
        return IDLE
    return CallPlan(
        copies=max(plan.copies for plan in plans),
        tasks=next((plan.tasks for plan in plans if plan.tasks is not None), None),
        divides_rows=any(plan.divides_rows for plan in plans),
        assigns_rows=any(plan.assigns_rows for plan in plans),
        runs=any(plan.runs for plan in plans),
        past_parts=_told_apart([computed for plan in plans for computed in plan.computed]),
        at_root=tuple(layer for layer in reading.at_entry if layer.acts_at_root),
        in_parts=True,
    )


def _told_apart(computed: Sequence[ComputedOnce]) -> tuple[ComputedOnce, ...]:
    """Those whose keys tell them apart from what other parts compute."""
    counts = Counter(one.key for one in computed)
    return tuple(one for one in computed if counts[one.key] == 1)
