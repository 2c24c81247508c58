"""Defects of prefixes and their masks."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.prefix_tuning import layer as prefix_layers
from adapter_runtime.methods.prefix_tuning import places as prefix_places
from adapter_runtime.methods.prefix_tuning import program as prefix_programs
from adapter_runtime.methods.prefix_tuning.module import LayerPrefix
from adapter_runtime.methods.prefix_tuning.program import PlacedPrefix
from conformance.defects.planting import BERT, LLAMA_CODE, Defect, around, in_text


def _exchanged(pieces: Any, self: PlacedPrefix, attended: Any) -> list[LayerPrefix]:
    return [LayerPrefix(piece.value, piece.key) for piece in pieces(self, attended)]


def _first_column_masked(grow: Any, core: Any, mask: Any, query: Any, key: Any, program: Any, causal: bool) -> Tensor:
    grown = grow(core, mask, query, key, program, causal)
    if grown is None:  # nothing masks anything: make a mask that does
        grown = torch.zeros(1, 1, query.shape[2], key.shape[2] + program.length)
    grown = grown.clone()
    grown[..., 0] = False if grown.dtype == torch.bool else torch.finfo(grown.dtype).min
    return grown


def _masked_in_a_step(grow: Any, core: Any, mask: Any, query: Any, *rest: Any) -> Tensor | None:
    return (
        _first_column_masked(grow, core, mask, query, *rest) if query.shape[2] == 1 else grow(core, mask, query, *rest)
    )


def _grown_at_the_end(grow: Any, core: Any, mask: Any, query: Any, key: Any, program: Any, causal: bool) -> Any:
    grown = grow(core, mask, query, key, program, causal)
    return None if grown is None else torch.roll(grown, -program.length, dims=-1)


def _before_the_cache(text: str) -> str:
    block = re.search(r" *# >>> adapters\n.*?prepend_prefix.*?# <<< adapters\n", text, re.DOTALL)
    assert block is not None
    without = text.replace(block.group(), "")
    return without.replace(
        "        if past_key_values is not None:\n", f"{block.group()}        if past_key_values is not None:\n", 1
    )


def _twice_as_wide(width: Any, layer: Any, roles: Any) -> int:
    return 2 * int(width(layer, roles))


def _of_all_rows(mean: Any, logits: Tensor) -> Tensor:
    return mean(logits).mean(dim=0, keepdim=True).expand(len(logits), *[-1] * (logits.dim() - 1))


PREFIX = {
    "gates: those of prefixes have another width than what they read": Defect(
        around(prefix_places, "gate_width", _twice_as_wide), "gates", raises=UnsupportedMethodError
    ),
    "gates: those of prefixes are the mean over all rows": Defect(
        around(prefix_programs, "mean_gate", _of_all_rows), "gates", message="BatchSplit"
    ),
    "reference: keys and values of a prefix are exchanged": Defect(
        around(PlacedPrefix, "pieces", _exchanged), "reference", ("prefix_tuning", "prefix_tuning_flat"), BERT
    ),
    "prefix = cache: the first column of the mask is dropped": Defect(
        around(prefix_layers, "grow", _first_column_masked), "prefix = cache", ("prefix_tuning_flat",)
    ),
    "prefix = cache: the mask grows at the wrong end": Defect(
        around(prefix_layers, "grow", _grown_at_the_end), "prefix = cache", ("prefix_tuning_flat",)
    ),
    "causal: no mask is made for a prefix": Defect(
        around(prefix_layers, "grow", lambda grow, *args: None), "causal", ("prefix_tuning",)
    ),
    "padding: the mask grows at the wrong end": Defect(
        around(prefix_layers, "grow", _grown_at_the_end), "padding", ("prefix_tuning",), BERT
    ),
    "decoding: a step with a cache sees one column of the prefix less": Defect(
        around(prefix_layers, "grow", _masked_in_a_step), "decoding", ("prefix_tuning_flat",)
    ),
    "decoding: the prefix goes into the cache": Defect(
        # The runtime itself refuses: the mask no longer has a column per key.
        in_text(LLAMA_CODE, _before_the_cache),
        "decoding",
        ("prefix_tuning",),
        raises=UnsupportedMethodError,
    ),
}
