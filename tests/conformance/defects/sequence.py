"""Defects of what a token sees: of later tokens, of padding, and of the adapter where a cache holds what went before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adapter_runtime.methods.bottleneck.module import Bottleneck
from adapter_runtime.methods.invertible.module import Coupling
from adapter_runtime.methods.lora.modules.low_rank import LowRank
from adapter_runtime.methods.lora.modules.scale import Scale
from adapter_runtime.methods.prefix_tuning.layer import AttentionAdaptersMixin
from adapter_runtime.methods.prompt_tuning import call as prompt_call
from adapter_runtime.methods.prompt_tuning.module import PromptTuning
from adapter_runtime.methods.reft import layer as reft_layers
from adapter_runtime.methods.reft.module import Reft
from adapter_runtime.methods.reft.positions import Positions, Stream, positions_of
from conformance.defects.planting import EVERY, Defect, Plant, all_of, around, instead, mean_of_row

UNMASKED = tuple(name for name in EVERY if name != "prefix_tuning_flat")  # a prefix has defects of its own


def _edit_of_row(forward: Any, self: Reft, hidden: Tensor, *positions: Tensor) -> Tensor:
    blurred = mean_of_row(hidden)
    return hidden + forward(self, blurred, *positions) - blurred


READS_ALL: Plant = all_of(
    around(Bottleneck, "transform", lambda transform, self, entry: transform(self, mean_of_row(entry))),
    around(LowRank, "forward", lambda forward, self, x, *rest: forward(self, mean_of_row(x), *rest)),
    around(Scale, "forward", lambda forward, self, x, output, *rest: forward(self, x, mean_of_row(output), *rest)),
    around(Reft, "forward", _edit_of_row),
    around(Coupling, "forward", lambda forward, self, states, rev=False: forward(self, mean_of_row(states), rev)),
    around(
        PromptTuning, "forward", lambda forward, self, states: forward(self, states) + states.mean(1, keepdim=True)
    ),
)


def _is_step(states: Tensor) -> bool:
    return states.dim() == 3 and states.shape[1] == 1


def _left_out(forward: Any, self: Any, value: Tensor, *rest: Any) -> Tensor:
    return value if _is_step(value) else forward(self, value, *rest)


def _unadapted(forward: Any, self: Any, x: Tensor, output: Tensor, *rest: Any) -> Tensor:
    return output if _is_step(x) else forward(self, x, output, *rest)


def _also_in_steps(stream: Stream, shapes: Any, hidden: Tensor, *told: Any) -> Positions:
    """Every token that is generated is the first of its call."""
    if not _is_step(hidden):
        return positions_of(stream, shapes, hidden, *told)
    found: list[Tensor] = []
    for shape in shapes:
        count = shape.prefix + shape.suffix
        is_missing = torch.arange(count)[None, :, None].expand(len(hidden), -1, -1) > 0
        found += [torch.zeros(len(hidden), count, hidden.shape[2], dtype=torch.long), is_missing]
    return tuple(found)


def _uncounted(positions: Any, sites: Any, call: prompt_call.PromptCall, given: Any, *rest: Any) -> Any:
    return positions(sites, call, given, *rest) if call.is_first else given


SKIPS_STEPS: Plant = all_of(
    around(Bottleneck, "forward", _left_out),
    around(Coupling, "forward", _left_out),
    around(LowRank, "forward", _unadapted),
    around(Scale, "forward", _unadapted),
)

SEQUENCE = {
    "causal: an adapter reads all of a row": Defect(READS_ALL, "causal", UNMASKED),
    "padding: an adapter reads all of a row": Defect(READS_ALL, "padding", UNMASKED),
    "decoding: a step with a cache leaves the adapter out": Defect(
        SKIPS_STEPS,
        "decoding",
        tuple(name for name in UNMASKED if name not in ("loreft", "prompt_tuning")),
    ),
    "decoding: ReFT edits what is generated": Defect(
        instead(reft_layers, "positions_of", _also_in_steps), "decoding", ("loreft", "noreft", "direft")
    ),
    "decoding: the positions of later steps do not count the prompt": Defect(
        around(prompt_call, "_positions", _uncounted), "decoding", ("prompt_tuning",)
    ),
    "steps: a step with a cache leaves the adapter out": Defect(
        SKIPS_STEPS,
        "steps",
        tuple(name for name in UNMASKED if name not in ("loreft", "prompt_tuning")),
    ),
    "steps: ReFT edits the first token of each call": Defect(
        instead(reft_layers, "positions_of", _also_in_steps), "steps", ("loreft", "direft")
    ),
    "steps: the tokens of the first step do not see the prompt": Defect(
        around(
            PromptTuning, "forward", lambda forward, self, states: forward(self, states) * float(states.shape[1] > 1)
        ),
        "steps",
        ("prompt_tuning",),
    ),
    "steps: a prefix is not seen where there is one key": Defect(
        around(
            AttentionAdaptersMixin,
            "prepend_prefix",
            lambda prepend, self, query, key, value, mask, *rest, **options: (
                (key, value, mask) if key.shape[-2] == 1 else prepend(self, query, key, value, mask, *rest, **options)
            ),
        ),
        "steps",
        ("prefix_tuning_flat", "prefix_tuning"),
    ),
}
