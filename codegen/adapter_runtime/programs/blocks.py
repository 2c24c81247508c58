"""What each composition block means in a layer: how it divides rows, and the node that it becomes.

Where do I add a block?  Its class in ``composition.py`` and its line in `BLOCK_SPECS` here; from outside of this library, a
`BlockSpec` given to `register_block`. `Stack` and `Average` have no node here: each kind of layer has its own way to run
adapters one after the other, and to average them (`TensorLayer.chain`, `TensorLayer.mean`). `Fuse` has none either: only
bottlenecks can run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from typing_extensions import Unpack

from adapter_runtime.call.division import CountedRows, EqualRows, RowDivider, TaskedRows
from adapter_runtime.composition import (
    AdapterCompositionBlock,
    BatchSplit,
    MultiTask,
    Parallel,
    Split,
    allow_block,
)
from adapter_runtime.programs.nodes import Rest, Rows, Spans, TensorNode

B = TypeVar("B", bound=AdapterCompositionBlock)


@dataclass(frozen=True)
class BlockSpec(Generic[B]):
    """What a composition block means in all kinds of layers, and for heads.

    Raises:
        TypeError: both of `rows` and `node` are given, or neither.
    """

    block: type[B]
    rows: Callable[[B], RowDivider] | None = None  # how it divides a batch; None = every child sees the whole of it
    # Its node, where that is not `Rows`: of the block and the programs of its children.
    node: Callable[[B, Sequence[TensorNode[Unpack[Rest]]]], TensorNode[Unpack[Rest]]] | None = None
    holds: tuple[type, ...] = ()  # what may stand in a registered block: `str`, and classes of blocks
    stands_in: tuple[type[AdapterCompositionBlock], ...] = ()  # which blocks a registered one may stand in

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.node is None):
            raise TypeError(f"The spec of {self.block.__name__} says either how it divides rows, or what its node is.")

    def program(self, block: B, programs: Sequence[TensorNode[Unpack[Rest]]]) -> TensorNode[Unpack[Rest]]:
        """The program of `block`, in a layer whose adapters are called with tensors, from those of its children."""
        if self.node is not None:
            return self.node(block, programs)
        assert self.rows is not None
        return Rows(programs, self.rows(block))


BLOCK_SPECS: dict[type[AdapterCompositionBlock], BlockSpec[Any]] = {
    BatchSplit: BlockSpec(BatchSplit, rows=lambda block: CountedRows(block.batch_sizes)),
    Parallel: BlockSpec(Parallel, rows=lambda block: EqualRows(len(block))),
    MultiTask: BlockSpec(MultiTask, rows=lambda block: TaskedRows(len(block))),
    Split: BlockSpec(Split, node=lambda block, programs: Spans(programs, block.splits)),
}

_REGISTERED: set[type[AdapterCompositionBlock]] = set()


def register_block(spec: BlockSpec[B]) -> None:
    """Let models run a composition block of your own, in every method whose adapters are called with tensors.

    Raises:
        InvalidCompositionError: there is a block of this name.
    """
    allow_block(spec.block, spec.holds, spec.stands_in)
    BLOCK_SPECS[spec.block] = spec
    _REGISTERED.add(spec.block)


def program_of_block(
    block: AdapterCompositionBlock, programs: Sequence[TensorNode[Unpack[Rest]]]
) -> TensorNode[Unpack[Rest]]:
    """The program of `block` in a layer, from those of all its children."""
    if isinstance(block, Parallel) and len(programs) == 1:
        return programs[0]
    return BLOCK_SPECS[type(block)].program(block, programs)


def divider_of(block: AdapterCompositionBlock) -> RowDivider | None:
    """How `block` divides a batch; None where it does not."""
    spec = BLOCK_SPECS.get(type(block))
    return None if spec is None or spec.rows is None else spec.rows(block)


def is_registered(block: AdapterCompositionBlock) -> bool:
    """Whether the class of a block was registered with `register_block`."""
    return type(block) in _REGISTERED
