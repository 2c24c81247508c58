"""Attention cores with prefixes: they put learned keys and values in front of their own, and grow the mask.

The prefix goes in after the update of the cache, so that a cache never holds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import Place
from adapter_runtime.composition import AdapterCompositionBlock, BatchSplit, MultiTask, Parallel, Stack
from adapter_runtime.methods.prefix_tuning.masks import (
    check_backend,
    grow,
    grow_bias,
    hide_from_rows,
    hides_later_keys,
    takes_no_mask,
)
from adapter_runtime.methods.prefix_tuning.module import PrefixTuning
from adapter_runtime.methods.prefix_tuning.program import (
    Attended,
    PlacedPrefix,
    PrefixesInFront,
    PrefixesOfPacked,
    PrefixesOfRows,
    PrefixNode,
)
from adapter_runtime.programs.blocks import divider_of
from adapter_runtime.programs.layer import AdapterLayerBase
from adapter_runtime.programs.showing import ShowsOccupiedRoom


class PrefixTuningLayer(AdapterLayerBase[PrefixNode]):
    """The prefixes of one attention. Their parameters belong to the model's `PrefixTuningPool`; gates are held here."""

    adapter_containers = ("prefix_gates",)
    method_name = "prefix tuning"
    runnable_blocks = (Stack, BatchSplit, Parallel, MultiTask)
    prefix_gates: nn.ModuleDict

    def __init__(self, layer_index: int, location_key: str) -> None:
        super().__init__()
        self.init_adapter_layer(layer_index, location_key)
        self.placed: dict[str, PlacedPrefix] = {}

    def place(self, name: str, tuning: PrefixTuning, position: int, gate_width: int | None) -> None:
        """Use the prefix `position` of `tuning` for the adapter `name`.

        Args:
            gate_width: of what a gate reads here; None = there is none.
        """
        gate = None
        if gate_width is not None:
            gate = nn.Linear(gate_width, 1 if tuning.config.shared_gating else 2)
            nn.init.normal_(gate.weight, std=0.02)
            nn.init.zeros_(gate.bias)
            self.prefix_gates[name] = gate
        self.placed[name] = PlacedPrefix(tuning, position, gate, Place(name, self.layer_index, self.location_key))

    def adapter_names(self) -> set[str]:
        return set(self.placed)

    def delete_adapter(self, name: str) -> None:
        super().delete_adapter(name)
        self.placed.pop(name, None)

    def leaf(self, name: str) -> PlacedPrefix | None:
        return self.placed.get(name)

    def can_run(self, block: AdapterCompositionBlock) -> bool:
        return isinstance(block, Stack) or divider_of(block) is not None

    def build_program(self, block: AdapterCompositionBlock, programs: Sequence[PrefixNode | None]) -> PrefixNode:
        """See `AdapterLayerBase`. Rows of a child that has no prefix here see none."""
        divider = divider_of(block)
        if divider is not None:
            if self.is_packed:
                return PrefixesOfPacked(programs, divider, self.shown_place())
            return PrefixesOfRows(programs, divider)
        found = [program for program in programs if program is not None]
        return found[0] if len(found) == 1 else PrefixesInFront(found)


class AttentionAdaptersMixin(ShowsOccupiedRoom, nn.Module):
    """Base of generated attention classes: what their forwards call before the keys and values meet the queries."""

    prefix_tuning: PrefixTuningLayer

    def init_prefix_tuning(self, layer_index: int, location_key: str) -> None:
        """Give the attention room for prefixes."""
        self.prefix_tuning = PrefixTuningLayer(layer_index, location_key)

    def prepend_prefix(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        gate_input: torch.Tensor | None = None,
        **keywords: Argument,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Keys, values and mask with the active prefixes in front.

        Args:
            query: [B, query heads, Q, width], or [B * query heads, Q, width].
            key: [B, key heads, K, width], from the cache too; or [B * key heads, K, width].
            value: [B, key heads, K, value width], or as the keys.
            mask: [B or 1, heads or 1, Q, K], boolean or additive; None where there is none.
            gate_input: [B, ..., H], the hidden states that gates read; [1, Q, H] where all rows have the same queries.
            keywords: of the call of the attention kernel; ``is_causal`` is read. False where upstream writes the scores out or
                calls torch's kernel: there nothing is hidden but by the mask. ``takes_mask`` is False where none can be given.

        Raises:
            UnsupportedMethodError: the attention implementation cannot honour a prefix, or prefixes of different lengths.
        """
        program = self.prefix_tuning.current_program()
        if program is None:
            return key, value, mask
        check_backend(self)
        is_flat = key.dim() == 3
        if is_flat:
            assert gate_input is not None
            key, value = (states.reshape(gate_input.shape[0], -1, *states.shape[1:]) for states in (key, value))
        pieces = program.pieces(Attended(key, value, gate_input))
        mask = grow(self, mask, query, key, program, hides_later_keys(self, keywords.get("is_causal")))
        if mask is not None and keywords.get("takes_mask") is False:
            raise takes_no_mask(self)
        key = torch.cat([*(piece.key for piece in pieces), key], dim=-2)
        value = torch.cat([*(piece.value for piece in pieces), value], dim=-2)
        return (key.flatten(0, 1), value.flatten(0, 1), mask) if is_flat else (key, value, mask)

    def extend_bias(self, bias: torch.Tensor | float | None, key: torch.Tensor) -> torch.Tensor | float | None:
        """A bias [..., Q, K] of the attention scores with zeros for the active prefixes in front; False in what hides keys.

        Args:
            bias: None or a number where a model has none: these stay as they are.
            key: [B, key heads, P + K, width] or [B * key heads, P + K, width], with the prefixes.
        """
        program = self.prefix_tuning.current_program()
        if program is None or not isinstance(bias, torch.Tensor):
            return bias
        return grow_bias(bias, program.length, key.shape[-2] - program.length)

    def hide_prefixes(self, scores: torch.Tensor, key: torch.Tensor, gate_input: torch.Tensor) -> torch.Tensor:
        """Scores [B, heads, Q, P + K] without those of prefixes that a row does not see, where upstream takes no mask.

        Args:
            key: [B, key heads, P + K, width] or [B * key heads, P + K, width], with the prefixes.
            gate_input: [B, Q, H].
        """
        program = self.prefix_tuning.current_program()
        visible = None if program is None else program.visible(gate_input if key.dim() == 3 else key)
        if program is None or visible is None:
            return scores
        return hide_from_rows(scores, visible, key.shape[-2] - program.length)
