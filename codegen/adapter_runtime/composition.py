"""Composition blocks: which adapters are active together, and how. Blocks are data; the layers run them.

Where do I add a new block?  A class and its line in `_HOLDS` here, and a `BlockSpec` in ``programs/blocks.py``, which says what
it means in a layer. From outside of this library: `register_block`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, Union, overload

from typing_extensions import Self

from adapter_runtime.errors import InvalidCompositionError

Child: TypeAlias = Union[str, "AdapterCompositionBlock"]
Nested: TypeAlias = Child | Sequence[Child | Sequence[Child]]  # a list is a `Stack`, a list in it a `Fuse`
Setup: TypeAlias = Nested | None
Option: TypeAlias = str | float | Sequence[float] | None  # what a block holds besides its children


class AdapterCompositionBlock(Sequence["str | AdapterCompositionBlock"]):
    """An immutable tree of adapter names. Two blocks are equal where class, children and options are.

    Args:
        children: names of adapters, or blocks.

    Raises:
        InvalidCompositionError: there are no children, or one is neither a name nor a block.
    """

    def __init__(self, *children: Child) -> None:
        for child in children:
            if not isinstance(child, (str, AdapterCompositionBlock)):
                raise InvalidCompositionError(
                    f"A child of {type(self).__name__} is a name or a block, not {type(child).__name__}: {child!r}."
                )
        if not children:
            raise InvalidCompositionError(f"{type(self).__name__} needs at least one child.")
        self.children: tuple[Child, ...] = tuple(children)

    @overload
    def __getitem__(self, index: int) -> Child: ...

    @overload
    def __getitem__(self, index: slice[int | None]) -> Sequence[Child]: ...

    def __getitem__(self, index: int | slice[int | None]) -> Child | Sequence[Child]:
        return self.children[index]

    def __len__(self) -> int:
        return len(self.children)

    def options(self) -> Mapping[str, Option]:
        """What the block holds besides its children: further arguments of its class, as files write them."""
        return {}

    def with_children(self, children: Sequence[Child]) -> Self:
        """A copy of this block, with the same options, of as many other children."""
        other = copy.copy(self)
        other.children = tuple(children)
        return other

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options().items() if value is not None]
        return f"{type(self).__name__}({', '.join([*map(repr, self.children), *options])})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AdapterCompositionBlock):
            return NotImplemented
        return type(self) is type(other) and (self.children, self.options()) == (other.children, other.options())

    def __hash__(self) -> int:
        return hash(repr(self))

    def first(self) -> str:
        """The first name in the tree."""
        return next(iter(self.names()))

    def last(self) -> str:
        """The last name in the tree."""
        return list(self.names())[-1]

    def names(self) -> Iterator[str]:
        """All names in the tree, from left to right, with repetitions."""
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child.names()

    def blocks(self) -> Iterator[AdapterCompositionBlock]:
        """This block and all blocks in it, parents first."""
        yield self
        for child in self.children:
            if isinstance(child, AdapterCompositionBlock):
                yield from child.blocks()

    def flatten(self) -> set[str]:
        """The set of all names in the tree."""
        return set(self.names())

    @property
    def parallel_channels(self) -> int:
        """How many copies of the batch the block computes."""
        return max(child.parallel_channels if isinstance(child, AdapterCompositionBlock) else 1 for child in self)


class Stack(AdapterCompositionBlock):
    """Each adapter gets what the one before it has computed."""


class Fuse(AdapterCompositionBlock):
    """A fusion: a learned attention over the outputs of the children. `name` defaults to the names with commas between."""

    def __init__(self, *children: Child, name: str | None = None) -> None:
        super().__init__(*children)
        self._name = name

    @property
    def name(self) -> str:
        last = (child if isinstance(child, str) else child.last() for child in self.children)
        return self._name or ",".join(last)

    def options(self) -> Mapping[str, Option]:
        return {"name": self._name}


class Split(AdapterCompositionBlock):
    """Each child gets its part of the sequence. `splits` are lengths in tokens; one number holds for every child."""

    def __init__(self, *children: Child, splits: int | Sequence[int]) -> None:
        super().__init__(*children)
        self.splits = _sizes(splits, len(children), "splits")

    def options(self) -> Mapping[str, Option]:
        return {"splits": self.splits}


class BatchSplit(AdapterCompositionBlock):
    """Each child gets its part of the batch. `batch_sizes` are numbers of rows; one number holds for every child."""

    def __init__(self, *children: Child, batch_sizes: int | Sequence[int]) -> None:
        super().__init__(*children)
        self.batch_sizes = _sizes(batch_sizes, len(children), "batch_sizes")

    def options(self) -> Mapping[str, Option]:
        return {"batch_sizes": self.batch_sizes}


class Parallel(AdapterCompositionBlock):
    """Each child gets a copy of the whole batch."""

    @property
    def parallel_channels(self) -> int:
        return len(self.children)


class MultiTask(AdapterCompositionBlock):
    """Each child gets the rows of the batch that belong to its task."""


class Average(AdapterCompositionBlock):
    """The weighted mean of the outputs of the children.

    Args:
        children: names of adapters, or blocks.
        weights: one per child; None = equal ones.
        normalize_weights: divide the weights by their sum.

    Raises:
        InvalidCompositionError: the weights are not one per child, or sum up to 0 and cannot be normalised.
    """

    def __init__(
        self,
        *children: Child,
        weights: Sequence[float] | None = None,
        normalize_weights: bool = True,
    ) -> None:
        super().__init__(*children)
        given = list(weights) if weights is not None else [1.0] * len(children)
        if len(given) != len(children):
            raise InvalidCompositionError(f"Average has {len(children)} children but {len(given)} weights.")
        total = sum(given)
        if normalize_weights and total == 0:
            raise InvalidCompositionError("The weights of Average sum to 0 and cannot be normalised.")
        self.weights = [weight / total for weight in given] if normalize_weights else given

    def options(self) -> Mapping[str, Option]:
        return {"weights": self.weights, "normalize_weights": False}


def _sizes(sizes: int | Sequence[int], count: int, option: str) -> list[int]:
    sizes = [sizes] * count if isinstance(sizes, int) else list(sizes)
    if len(sizes) != count:
        raise InvalidCompositionError(f"There are {count} children but {len(sizes)} {option}.")
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise InvalidCompositionError(f"{option} are numbers of at least 0, not {sizes}.")
    return sizes


# What may stand in each block.
_HOLDS: dict[type[AdapterCompositionBlock], tuple[type, ...]] = {
    Stack: (str, Stack, Fuse, Split, Parallel, BatchSplit, Average, MultiTask),
    Fuse: (str, Stack),
    Split: (str, Split, Stack, BatchSplit, Average),
    Parallel: (str, Stack, BatchSplit, Average),
    MultiTask: (str, Stack, Average, Fuse),
    BatchSplit: (str, Stack, Split, BatchSplit, Average),
    Average: (str, Stack, Split, BatchSplit),
}

# By the name that files give them.
BLOCKS: dict[str, type[AdapterCompositionBlock]] = {block.__name__: block for block in _HOLDS}


def allow_block(block: type[AdapterCompositionBlock], holds: Sequence[type], stands_in: Sequence[type]) -> None:
    """Let blocks of a further class be nested and saved.

    Args:
        holds: what may stand in it: `str` for names of adapters, and classes of blocks.
        stands_in: classes of blocks that it may stand in.

    Raises:
        InvalidCompositionError: another class of blocks has this name.
    """
    if BLOCKS.get(block.__name__, block) is not block:
        raise InvalidCompositionError(f"There is a block {block.__name__} already. Choose another name.")
    BLOCKS[block.__name__] = block
    _HOLDS[block] = tuple(holds)
    for outer in stands_in:
        _HOLDS[outer] = (*_HOLDS[outer], block)


def parse_composition(setup: Setup, level: int = 0) -> AdapterCompositionBlock | None:
    """The block that `setup` stands for: a name or a list of them is a `Stack`, a list in a list a `Fuse`.

    Args:
        setup: a name, a block, or nested lists of them; None = no adapters.
        level: how many lists `setup` stands in already.

    Raises:
        InvalidCompositionError: `setup` stands for none, or nests blocks that cannot be nested.
    """
    if setup is None:
        return None
    block = _as_block(setup, level)
    if isinstance(block, str):
        block = Stack(block)
    validate_composition(block)
    return block


def _as_block(setup: Nested, level: int) -> Child:
    if isinstance(setup, (str, AdapterCompositionBlock)):
        return setup
    if isinstance(setup, Sequence) and level < 2:
        return (Stack if level == 0 else Fuse)(*(_as_block(child, level + 1) for child in setup))
    raise InvalidCompositionError(f"Cannot read {setup!r} as a composition of adapters.")


def validate_composition(block: AdapterCompositionBlock) -> None:
    """Check that blocks stand only in blocks that can run them.

    Raises:
        InvalidCompositionError: they do not.
    """
    for child in block:
        if not isinstance(child, _HOLDS[type(block)]):
            raise InvalidCompositionError(
                f"{type(child).__name__} cannot stand inside {type(block).__name__}, only "
                f"{', '.join(kind.__name__ for kind in _HOLDS[type(block)])} can."
            )
        if isinstance(child, AdapterCompositionBlock):
            validate_composition(child)
    _validate_copies(block)


def _validate_copies(block: AdapterCompositionBlock) -> None:
    """`Parallel` divides the whole batch, so that only `Stack` may hold it; several in one `Stack` need the same number of children."""
    for child in block:
        if not isinstance(child, AdapterCompositionBlock):
            continue
        if not isinstance(block, Stack) and child.parallel_channels > 1:
            raise InvalidCompositionError(
                f"Parallel runs copies of the whole batch and cannot stand inside {type(block).__name__}: {block!r}."
            )
        if child.parallel_channels not in (1, block.parallel_channels):
            raise InvalidCompositionError(
                f"All Parallel blocks of a Stack need the same number of children: {block!r}."
            )
