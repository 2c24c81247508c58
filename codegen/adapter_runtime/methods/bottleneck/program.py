"""Programs of bottlenecks: what adapters, blocks and fusions give for the new value of the residual stream.

The state of these programs is ``(x, residual, norm)``: the output of the sublayer [B, L, H], the residual stream before it
[B, L, H], if the layer gives it, and the norm of the layer where it follows the addition, else None.

After the last adapter follow the layer's addition of the residual and its norm, unless the option `original_ln_after` of that
adapter is off: then what it gives is the new residual stream. Where the parts of a batch or of a sequence end with adapters
that differ in it, each part is finished by itself, and so are rows of which no adapter lives here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.bottleneck.module import Bottleneck, Norm
from adapter_runtime.methods.fusion.module import AdapterFusion
from adapter_runtime.programs.nodes import Branch, Chain, Keep, Leaf, Mean, Node, Parts, TensorNode

BottleneckNode: TypeAlias = TensorNode[torch.Tensor | None, Norm | None]


class BottleneckLeaf(Leaf[torch.Tensor | None, Norm | None]):
    """A bottleneck adapter."""

    def __init__(self, adapter: Bottleneck) -> None:
        super().__init__(adapter)
        self.adapter = adapter
        self.reads_sequence = adapter.gate is not None


class Member(NamedTuple):
    """One of the adapters that a fusion mixes."""

    before: tuple[BottleneckNode, ...]  # what runs before it, in a stack of its own
    last: BottleneckLeaf


class FusionNode(BottleneckNode):
    """`Fuse`: all members read the same input, and an attention over their outputs mixes these.

    The last member decides what the input is, what the result is added to, and whether the layer's norm follows.
    A member that is a stack starts from the output of the sublayer, as outside of a fusion.
    """

    def __init__(self, fusion: AdapterFusion, members: Sequence[Member]) -> None:
        super().__init__([node for member in members for node in (*member.before, member.last)])
        self.fusion = fusion
        self.members = tuple(members)
        self.last = members[-1].last.adapter

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, norm: Norm | None) -> torch.Tensor:
        entry, own_residual = self.last.before(x, residual, norm)
        values = [self.output_of(member, entry, x, residual, norm) for member in self.members]
        takes_sublayer = self.fusion.config.query_before_ln and not self.last.config.is_parallel
        mixed: torch.Tensor = self.fusion(x if takes_sublayer else entry, torch.stack(values, dim=-2), own_residual)
        return mixed

    @staticmethod
    def output_of(
        member: Member, entry: torch.Tensor, x: torch.Tensor, residual: torch.Tensor | None, norm: Norm | None
    ) -> torch.Tensor:
        """[B, L, H]: what the up-projection of a member gives."""
        if member.before:
            for program in member.before:
                x = program(x, residual, norm)
            entry, _ = member.last.adapter.before(x, residual, norm)
        return member.last.adapter.up(entry)


class Finished(Branch[torch.Tensor | None, Norm | None]):
    """A program, and then the addition and norm of the layer."""

    def __init__(self, program: BottleneckNode) -> None:
        super().__init__([program])
        self.program = program

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None, norm: Norm | None) -> torch.Tensor:
        assert residual is not None  # layers that leave the addition to their adapters give it
        total = self.program(x, residual, norm) + residual
        return total if norm is None else norm(total)


def completed(program: BottleneckNode, before: bool = True) -> BottleneckNode:
    """`program`, then the layer's addition and norm, where its adapters have `original_ln_after`.

    Args:
        before: whether the layer's addition would follow what stands before `program`.

    Raises:
        UnsupportedMethodError: whether they follow depends on the row, in a way that is not known at activation.
    """
    follows = is_finished_by_layer(program, before)
    if follows is not None:
        return Finished(program) if follows else program
    if isinstance(program, Chain):
        *first, last = program.programs
        state: bool | None = before
        for step in first:
            state = is_finished_by_layer(step, state)
        if state is None:
            raise UnsupportedMethodError(
                "In a Stack, a block of adapters that differ in original_ln_after stands before one that leaves some "
                "rows alone. Use adapters with the same original_ln_after there."
            )
        return Chain([*first, completed(last, state)])
    if not isinstance(program, (Parts, Mean)):
        raise UnsupportedMethodError(
            f"The adapters of a {type(program).__name__} differ in original_ln_after, so that what follows them cannot be told."
            " Use adapters with the same original_ln_after there."
        )
    return program.with_programs([completed(child, before) for child in program.programs])


def is_finished_by_layer(program: Node, before: bool | None = True) -> bool | None:
    """Whether the layer's addition and norm follow `program`; None = after some of its parts only.

    Args:
        before: whether they follow what stands before it.
    """
    if isinstance(program, Keep):
        return before
    if isinstance(program, Chain):
        for step in program.programs:
            before = is_finished_by_layer(step, before)
        return before
    if isinstance(program, (BottleneckLeaf, FusionNode)):
        adapter = program.adapter if isinstance(program, BottleneckLeaf) else program.last
        return bool(adapter.config.original_ln_after)
    states = {is_finished_by_layer(child, before) for child in program.children}
    return states.pop() if len(states) == 1 else None
