"""Programs of prompts: they give the prompt [B, P, H] for each row of states [B, L, H]."""

from __future__ import annotations

from typing import TypeAlias

import torch

from adapter_runtime.programs.nodes import TensorNode

PromptNode: TypeAlias = TensorNode[()]


class Prompts(PromptNode):
    """What runs in a model, and where in a row it goes.

    Args:
        program: gives the prompt.
        length: P.
        combine: "prefix" or "prefix_after_bos": in front of the tokens of a row, or after the first real one.
        insert_at: "embedding_output" or "token_embeddings".
    """

    def __init__(self, program: PromptNode, length: int, combine: str, insert_at: str) -> None:
        super().__init__([program])
        self.program = program
        self.length = self.added_positions = length
        self.combine = combine
        self.insert_at = insert_at
        self.is_between_tokens = combine == "prefix_after_bos"

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return self.program(states)
