"""Defects of invertible adapters and prompts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adapter_runtime.methods.invertible import api as invertible_api
from adapter_runtime.methods.invertible.module import NICE
from adapter_runtime.methods.prompt_tuning import layer as prompt_layers
from adapter_runtime.methods.prompt_tuning.call import PromptCall
from adapter_runtime.methods.prompt_tuning.insertion import Insertion
from conformance.defects.planting import BERT, Defect, around, instead, nothing


def _masked_prompt(self: PromptCall, mask: Tensor) -> Tensor:
    self.mask = mask
    self.grown_mask = self.insertion.into(mask, mask.new_zeros(mask.shape[0], self.insertion.length))
    return self.grown_mask


def _behind(into: Any, self: Insertion, tokens: Tensor, prompt: Tensor) -> Tensor:
    return into(self, prompt, tokens) if tokens.is_floating_point() else into(self, tokens, prompt)


def _one_early(out_of: Any, self: Insertion, states: Tensor) -> Tensor:
    return out_of(self, states.roll(1, dims=1))


def _always_first(init: Any, self: PromptCall, *args: Any) -> None:
    init(self, *args)
    self.is_first = True


MASK_AT_THE_WRONG_END = around(
    PromptCall, "grow_mask", lambda grow, self, mask: grow(self, mask).roll(-self.insertion.length, dims=1)
)

EMBEDDINGS = {
    "reference: nothing is undone before a tied projection": Defect(
        instead(invertible_api, "undo_before_projection", nothing), "reference", ("seq_bn_inv",), BERT
    ),
    "reference: the halves of an invertible adapter change places": Defect(
        around(NICE, "done", lambda done, self, first, second: done(self, second, first)),
        "reference",
        ("seq_bn_inv",),
    ),
    "reference: the inverse undoes in the wrong order": Defect(
        instead(NICE, "undone", lambda self, a, b: (a - self.F(b), b - self.G(a - self.F(b)))),
        "reference",
        ("seq_bn_inv",),
        BERT,
    ),
    "reference: the mask hides the prompt": Defect(
        instead(PromptCall, "grow_mask", _masked_prompt), "reference", ("prompt_tuning",)
    ),
    "padding: the mask grows at the wrong end of a prompt": Defect(
        MASK_AT_THE_WRONG_END,
        "padding",
        ("prompt_tuning",),
        BERT,
    ),
    "reference: the prompt stands behind the tokens": Defect(
        around(Insertion, "into", _behind), "reference", ("prompt_tuning",)
    ),
    "reference: heads read one position of the prompt": Defect(
        around(Insertion, "out_of", _one_early), "reference", ("prompt_tuning",)
    ),
    "reference: the prompt is left in what a head reads": Defect(
        instead(prompt_layers, "after_call", lambda outputs: outputs), "reference", ("prompt_tuning",)
    ),
    "decoding: the prompt goes in again with each step": Defect(
        around(PromptCall, "__init__", _always_first),
        "decoding",
        ("prompt_tuning",),
    ),
    "decoding: the mask of later steps does not count the prompt": Defect(
        around(
            PromptCall,
            "grow_mask",
            lambda grow, self, mask: grow(self, mask) if self.is_first else mask,
        ),
        "decoding",
        ("prompt_tuning",),
    ),
}
