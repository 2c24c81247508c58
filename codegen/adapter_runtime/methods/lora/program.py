"""Programs of projections: what a stack of LoRA adapters, or of their relatives, means.

The state of these programs is what `ProjectionAdapter.forward` takes: the input of the projection, its output, and in a
stack the input once more. The result takes the place of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.lora.base import ProjectionAdapter
from adapter_runtime.methods.lora.low_rank import LowRank
from adapter_runtime.methods.lora.scale import Scale
from adapter_runtime.programs.nodes import Program


def untouched(x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
    """The program of no adapter: the output as it is, and within a stack the update so far."""
    return output if source is None else x


class UpdateChain:
    """A stack of low-rank adapters: each transforms the update of the one before, and the last update is added."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)

    def __call__(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        gated_by = x if source is None else source
        nothing = torch.zeros_like(output)
        update = self.programs[0](x, nothing, source)
        for program in self.programs[1:]:
            update = program(update, nothing, gated_by)
        return output + update


class ScaleChain:
    """A stack of adapters that scale: the factors multiply."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = list(programs)

    def __call__(self, x: torch.Tensor, output: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        for program in self.programs:
            output = program(x, output)
        return output


def leaves(program: Any) -> Iterator[ProjectionAdapter]:
    """The adapters in a program."""
    if isinstance(program, ProjectionAdapter):
        yield program
    for child in getattr(program, "programs", ()):
        yield from leaves(child)


def chain(programs: Sequence[Program]) -> Program:
    """The program of a stack of at least two.

    Raises:
        UnsupportedMethodError: the adapters cannot run one after the other.
    """
    adapters = [leaf for program in programs for leaf in leaves(program)]
    if all(isinstance(adapter, Scale) for adapter in adapters):
        return ScaleChain(programs)
    if any(isinstance(adapter, Scale) for adapter in adapters):
        raise UnsupportedMethodError("LoRA adapters that add and that scale cannot stand in one Stack.")
    for adapter in adapters:
        check_update(adapter)
    return UpdateChain(programs)


def check_update(adapter: ProjectionAdapter) -> None:
    """Raise where an adapter does not map updates to updates."""
    if isinstance(adapter, LowRank) and adapter.m is not None:
        raise UnsupportedMethodError(
            "DoRA rescales all of an output, so it cannot stand in a Stack with another adapter of the same projection."
            " Use BatchSplit, Parallel or Average, or LoRA without use_dora."
        )
    if adapter.in_features != adapter.out_features:
        raise UnsupportedMethodError(
            "In a Stack, a LoRA adapter reads the update of the one before it, so the projection must have as many "
            f"inputs as outputs, not {adapter.in_features} and {adapter.out_features} ({adapter.place.location} of layer"
            f" {adapter.place.layer})."
        )
