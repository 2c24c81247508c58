"""The prompts of a model, and which of them run.

reserving.py   in models made of several: room for the prompt before it goes in
insertion.py   the arithmetic of columns
beside.py      what else has one entry per token
windows.py     whether padding may stand between the prompt and the tokens
call.py        one call: masks, positions, where the prompt goes in and where it is taken out again
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument, Outputs
from adapter_runtime.composition import AdapterCompositionBlock, Average, Stack
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prompt_tuning.call import PromptSites, after_call, before_call
from adapter_runtime.methods.prompt_tuning.module import PromptTuning
from adapter_runtime.methods.prompt_tuning.program import Prompts
from adapter_runtime.methods.prompt_tuning.reserving import (
    after_reserved,
    reserve,
    reserved_call,
    reserves,
    write_over,
)
from adapter_runtime.programs.blocks import program_of_block
from adapter_runtime.programs.layer import AdapterLayerBase, EntryModel
from adapter_runtime.programs.nodes import Branch, Leaf, Mean


class InFront(Branch[()]):
    """`Stack`: a later prompt stands in front of an earlier one, like prefixes do."""

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([program(states) for program in reversed(self.programs)], dim=1)


class PromptTuningLayer(AdapterLayerBase[Prompts]):
    """The prompts of a model by name of their adapter, and where in the model they go in."""

    adapter_containers = ("prompt_tunings",)
    method_name = "prompt tuning"
    acts_at_entry = True
    acts_at_root = True
    prompt_tunings: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self.init_adapter_layer(-1, "prompt")
        self.sites: PromptSites | None = None  # found when the first prompt is added

    def add_adapter(self, name: str, tuning: PromptTuning, model: AdaptedBaseModel) -> None:
        """Use `tuning` for the adapter `name` of the base model `model`."""
        if self.sites is None:
            self.sites = PromptSites.find(model)
            self.sites.attach(model, self)
        self.prompt_tunings[name] = tuning

    def leave_if_empty(self, model: AdaptedBaseModel) -> None:
        """Remove the hooks for prompts from a base model, when its last prompt is deleted."""
        if self.sites is not None and not self.prompt_tunings:
            self.sites.detach(model)
            self.sites = None

    def leaf(self, name: str) -> Prompts | None:
        if name not in self.prompt_tunings:
            return None
        tuning = self.prompt_tunings[name]
        assert isinstance(tuning, PromptTuning)
        config = tuning.config
        return Prompts(Leaf(tuning), config.prompt_length, config.combine, config.insert_at)

    def build_program(self, block: AdapterCompositionBlock, programs: Sequence[Prompts | None]) -> Prompts:
        """See `AdapterLayerBase`. All rows must get equally many positions, at the same place.

        Raises:
            UnsupportedMethodError: they do not.
        """
        found = [program for program in programs if program is not None]
        first = found[0]
        places = {(prompts.combine, prompts.insert_at) for prompts in found}
        if len(places) > 1:
            raise UnsupportedMethodError(
                f"The prompts of {block!r} go to different places ({_shown(places)}). Choose adapters with the same "
                "combine and insert_at."
            )
        if isinstance(block, Stack):
            program = first.program if len(found) == 1 else InFront([prompts.program for prompts in found])
            return Prompts(program, sum(prompts.length for prompts in found), *places.pop())
        lengths = [0 if program is None else program.length for program in programs]
        if len(set(lengths)) > 1:
            raise UnsupportedMethodError(
                f"{type(block).__name__} runs prompts of one length only, but those of {block!r} have "
                f"{', '.join(map(str, lengths))} positions. Choose adapters with equally long prompts."
            )
        programs_of_found = [prompts.program for prompts in found]
        joined = (
            Mean(programs_of_found, block.weights)
            if isinstance(block, Average)
            else program_of_block(block, programs_of_found)
        )
        return Prompts(joined, first.length, *places.pop())

    def follows_padding(self) -> bool:
        """Whether the prompt that runs stands behind padding on the left."""
        prompts = self.current_program()
        if prompts is None or self.sites is None:
            return False
        return self.sites.stays_near or prompts.combine != "prefix"

    def at_root(self, root: EntryModel, part: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        """See `AdapterLayerBase`."""
        prompts, whole, reader = self.current_program(), cast("AdaptedBaseModel", root), cast("AdaptedBaseModel", part)
        assert prompts is not None and self.sites is not None
        if not reserves(whole, reader, self.sites):
            return given
        return reserve(whole, reader, self.sites, prompts, given)

    def after_root(self, outputs: Outputs) -> Outputs:
        """See `AdapterLayerBase`."""
        return after_reserved(outputs)

    def at_entry(self, model: EntryModel, given: dict[str, Argument]) -> dict[str, Argument]:
        prompts, part = self.current_program(), cast("AdaptedBaseModel", model)
        assert prompts is not None and self.sites is not None
        reserved = reserved_call(part)
        if reserved is not None:
            return write_over(part, self.sites, reserved, given)
        return before_call(self.sites, model, prompts, given)

    def at_exit(self, outputs: Outputs) -> Outputs:
        return after_call(outputs)


def _shown(places: set[tuple[str, str]]) -> str:
    return "; ".join(f"{combine} at the {insert_at}" for combine, insert_at in sorted(places))
