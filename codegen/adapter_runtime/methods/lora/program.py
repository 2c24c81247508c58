"""Programs of projections: what a stack of LoRA adapters, or of their relatives, means.

The state of these programs is what `ProjectionAdapter.forward` takes: the input of the projection [B, ..., I], its output
[B, ..., P], and in a stack the input once more, else None. The result takes the place of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.lora.modules.base import ProjectionAdapter
from adapter_runtime.programs.nodes import Branch, Leaf, Node, TensorNode

ProjectionNode: TypeAlias = TensorNode[torch.Tensor, torch.Tensor | None]


class ProjectionLeaf(Leaf[torch.Tensor, torch.Tensor | None]):
    """An adapter of a projection."""

    def __init__(self, adapter: ProjectionAdapter) -> None:
        super().__init__(adapter)
        self.adapter = adapter
        self.reads_sequence = adapter.gate is not None


class KeepOutput(ProjectionNode):
    """No adapter: the output as it is, and within a stack the update so far."""

    def __call__(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        return output if source is None else x


keep_output = KeepOutput()


class UpdateChain(Branch[torch.Tensor, torch.Tensor | None]):
    """A stack of low-rank adapters: each transforms the update of the one before, and the last update is added."""

    def __call__(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        gated_by = x if source is None else source
        nothing = torch.zeros_like(output)
        update = self.programs[0](x, nothing, source)
        for program in self.programs[1:]:
            update = program(update, nothing, gated_by)
        return output + update


class ScaleChain(Branch[torch.Tensor, torch.Tensor | None]):
    """A stack of adapters that scale: the factors multiply."""

    def __call__(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        for program in self.programs:
            output = program(x, output, None)
        return output


def adapters_in(program: Node | None) -> Iterator[ProjectionAdapter]:
    """The adapters in a program."""
    for node in program.walk() if program is not None else ():
        if isinstance(node, ProjectionLeaf):
            yield node.adapter


def chain(programs: Sequence[ProjectionNode]) -> ProjectionNode:
    """The program of a stack of at least two.

    Raises:
        UnsupportedMethodError: the adapters cannot run one after the other.
    """
    adapters = [adapter for program in programs for adapter in adapters_in(program)]
    if all(adapter.scales for adapter in adapters):
        return ScaleChain(programs)
    if any(adapter.scales for adapter in adapters):
        raise UnsupportedMethodError("LoRA adapters that add and that scale cannot stand in one Stack.")
    for adapter in adapters:
        adapter.refuse_in_stack()
    return UpdateChain(programs)
