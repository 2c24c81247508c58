"""Which heads run in a call, as `active_head`, ``head=...`` and `AdapterSetup` name them.

"a"                          one head
["a", "b"]                   all of them on all rows
Parallel("a", "b")           the same; where the adapters are parallel too, each on the copy of its adapter
BatchSplit("a", "b", ...)    each on its rows of the batch
MultiTask("a", "b")          each on the rows of its task

Registered blocks (`register_block`) that divide the rows of a batch among their children can hold heads too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from adapter_runtime.composition import AdapterCompositionBlock, MultiTask, Parallel, Setup, Stack
from adapter_runtime.errors import InvalidCompositionError
from adapter_runtime.programs.blocks import divider_of

HeadSetup: TypeAlias = str | list[str] | AdapterCompositionBlock


def parse_heads(setup: Setup) -> HeadSetup | None:
    """`setup` in its simplest form: None, a name, a list of at least two names, or a block of names.

    Raises:
        InvalidCompositionError: it is something else.
    """
    if setup is None or isinstance(setup, str):
        return setup or None
    if isinstance(setup, AdapterCompositionBlock) and divider_of(setup) is None:
        raise InvalidCompositionError(
            f"Heads cannot be set up as {setup!r}: give a name, a list of names, Parallel, BatchSplit or MultiTask."
        )
    if not isinstance(setup, Sequence) or not all(isinstance(name, str) for name in setup):
        raise InvalidCompositionError(f"Heads are named by strings, not as in {setup!r}.")
    if isinstance(setup, AdapterCompositionBlock):
        return setup
    names = [str(name) for name in setup]
    return names if len(names) > 1 else next(iter(names), None)


def head_names(setup: HeadSetup | None) -> list[str]:
    """The names in `setup`, in their order."""
    if setup is None:
        return []
    return [setup] if isinstance(setup, str) else [str(name) for name in setup]


def heads_of(block: AdapterCompositionBlock | None) -> HeadSetup | None:
    """The heads named like the adapters in `block`, if it tells which. The last child of a `Stack` decides:

    a name stands for the head of this name; a block that divides rows, for one head per child, named like the last adapter
    of the child. `MultiTask`, and blocks that make one output of all children (`Fuse`, `Average`), name no heads: None.
    """
    last: str | AdapterCompositionBlock | None = block
    while isinstance(last, Stack):
        last = last[-1]
    if last is None or isinstance(last, str):
        return last
    names = [child if isinstance(child, str) else child.last() for child in last]
    if isinstance(last, Parallel):
        return names if len(names) > 1 else names[0]
    # As in `adapters`, the head stays where tasks share adapters: one head may serve all tasks.
    if isinstance(last, MultiTask) or divider_of(last) is None:
        return None
    return last.with_children(names)
