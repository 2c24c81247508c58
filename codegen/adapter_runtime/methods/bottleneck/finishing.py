"""What follows the adapters of a place: the layer's addition of the residual, and its norm.

They follow after the last adapter, unless its option `original_ln_after` is off (then its output is the new residual
stream). Where the parts of a batch or sequence end with adapters that differ in it, each part is finished by itself; so is
what no adapter of a block lives for.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.programs.nodes import Chain, Mean, Parts, Program, first_kept


class Finished:
    """A program, and then the addition and norm of the layer."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, norm: Any) -> torch.Tensor:
        total = self.program(x, residual, norm) + residual
        return total if norm is None else norm(total)


def completed(program: Program, before: bool = True) -> Program:
    """`program`, and after it what the layer does, where its adapters do not exclude that.

    Args:
        before: whether the layer's addition would follow what stands before `program`.

    Raises:
        UnsupportedMethodError: it depends on the row, in a way that is not known beforehand.
    """
    follows = finishes(program, before)
    if follows is not None:
        return Finished(program) if follows else program
    if isinstance(program, Chain):
        *first, last = program.programs
        state: bool | None = before
        for step in first:
            state = finishes(step, state)
        if state is None:
            raise UnsupportedMethodError(
                "In a Stack, a block of adapters that differ in original_ln_after stands before one that leaves some "
                "rows alone. Use adapters with the same original_ln_after there."
            )
        return Chain([*first, completed(last, state)])
    assert isinstance(program, (Parts, Mean))
    divided = copy.copy(program)
    divided.programs = [completed(child, before) for child in program.programs]
    return divided


def finishes(program: Program, before: bool | None = True) -> bool | None:
    """Whether the layer's addition and norm follow `program`; None = after some of its parts only.

    Args:
        before: the same for what stands before it.
    """
    if program is first_kept:
        return before
    if isinstance(program, Chain):
        for step in program.programs:
            before = finishes(step, before)
        return before
    if isinstance(program, (Parts, Mean)):
        states = {finishes(child, before) for child in program.programs}
        return states.pop() if len(states) == 1 else None
    adapter: Any = getattr(program, "last", program)  # a mixture is finished as its last member
    return bool(adapter.config.original_ln_after)
