"""Defects of compositions, in every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adapter_runtime.composition import (
    AdapterCompositionBlock,
    Average,
    BatchSplit,
    Fuse,
    MultiTask,
    Parallel,
    Stack,
)
from adapter_runtime.methods.fusion import api as fusion_api
from adapter_runtime.methods.fusion.module import AdapterFusion
from adapter_runtime.methods.invertible.layer import CouplingChain, InvertibleAdapters
from adapter_runtime.methods.lora import program as lora_program
from adapter_runtime.methods.lora.modules.low_rank import LowRank
from adapter_runtime.methods.prefix_tuning.layer import PrefixTuningLayer
from adapter_runtime.programs.layer import AdapterLayerBase
from conformance.defects.planting import BERT, EVERY, LOW_RANK, Defect, Plant, around, instead, nothing

AVERAGED = tuple(name for name in EVERY if name not in ("seq_bn_inv", "prefix_tuning_flat"))
# An attention does not see in which order prefixes stand, nor factors who multiplied first; DoRA runs in no stack.
ORDERED = tuple(name for name in EVERY if name not in ("prefix_tuning_flat", "prompt_tuning", "ia3", "dora", "dvora"))


def turned_round(kind: type[AdapterCompositionBlock], again: Callable[..., AdapterCompositionBlock]) -> Plant:
    """Blocks of a kind run their children in the reverse order: `again` makes a block of them, with the same options."""

    def program_of(original: Any, self: AdapterLayerBase, block: Any) -> Any:
        return original(self, again(block, tuple(block)[::-1]) if isinstance(block, kind) else block)

    return around(AdapterLayerBase, "program_of", program_of)


def accepted(layer: type[AdapterLayerBase], kind: type[AdapterCompositionBlock]) -> Plant:
    """A layer passes over a block that it cannot run."""

    def program_of(original: Any, self: AdapterLayerBase, block: Any) -> Any:
        return None if isinstance(block, kind) else original(self, block)

    return around(layer, "program_of", program_of)


def _inverse_in_the_order_of_the_forward(self: CouplingChain, states: Tensor, rev: bool) -> Tensor:
    for program in self.programs:
        states = program(states, rev)
    return states


BLOCKS = {
    "stack: the last adapter runs first": Defect(
        turned_round(Stack, lambda block, children: Stack(*children)),
        "stack",
        ORDERED,
        BERT,  # whose projections are square
    ),
    "stack: the last prompt runs first": Defect(
        turned_round(Stack, lambda block, children: Stack(*children)), "stack", ("prompt_tuning",)
    ),
    "stack: only the last prefix is seen": Defect(
        around(
            PrefixTuningLayer, "build_program", lambda build, self, block, programs: build(self, block, programs[-1:])
        ),
        "stack",
        ("prefix_tuning_flat", "prefix_tuning"),
    ),
    "stack: only the last factors scale": Defect(
        instead(lora_program.ScaleChain, "__call__", lambda self, x, output, _=None: self.programs[-1](x, output)),
        "stack",
        ("ia3",),
    ),
    "stack: updates of any shape, and DoRA, are accepted": Defect(
        instead(LowRank, "refuse_in_stack", nothing), "stack", LOW_RANK
    ),
    "stack: the inverse begins with the adapter that ran first": Defect(
        instead(CouplingChain, "__call__", _inverse_in_the_order_of_the_forward), "stack", ("seq_bn_inv",), BERT
    ),
    "parallel: the copies change places": Defect(
        turned_round(Parallel, lambda block, children: Parallel(*children)), "parallel", EVERY
    ),
    "batch split: the parts change places": Defect(
        turned_round(BatchSplit, lambda block, children: BatchSplit(*children, batch_sizes=block.batch_sizes)),
        "batch split",
        EVERY,
    ),
    "multi task: the tasks change places": Defect(
        turned_round(MultiTask, lambda block, children: MultiTask(*children)), "multi task", EVERY
    ),
    "average: the weights change places": Defect(
        turned_round(Average, lambda block, children: Average(*children, weights=block.weights)), "average", AVERAGED
    ),
    "average: prefixes pass over it": Defect(accepted(PrefixTuningLayer, Average), "average", ("prefix_tuning_flat",)),
    "average: invertible adapters pass over it": Defect(
        accepted(InvertibleAdapters, Average), "average", ("seq_bn_inv",)
    ),
    "fuse: all members weigh the same": Defect(
        around(AdapterFusion, "tempered", lambda tempered, self, scores: torch.zeros_like(tempered(self, scores))),
        "fuse",
        ("double_seq_bn", "compacter"),
    ),
    "fuse: the value projection is left out": Defect(
        around(
            AdapterFusion,
            "forward",
            lambda forward, self, query, values, residual: forward(self, query, values, residual)
            + (_fusion_node(self, query, values) - self.value(_fusion_node(self, query, values))),
        ),
        "fuse",
        ("double_seq_bn",),
    ),
    "fuse: adapters without bottlenecks are accepted": Defect(
        instead(fusion_api.AdapterFusionMixin, "add_adapter_fusion", nothing),
        "fuse",
        tuple(name for name in EVERY if name not in ("double_seq_bn", "compacter", "seq_bn_inv")),
    ),
    "fuse: invertible adapters pass over it": Defect(accepted(InvertibleAdapters, Fuse), "fuse", ("seq_bn_inv",)),
}


def _fusion_node(fusion: AdapterFusion, query: Tensor, values: Tensor) -> Tensor:
    shares = torch.softmax(fusion.scores(query, values), dim=-1)
    return (shares.unsqueeze(-1) * values).sum(-2)
