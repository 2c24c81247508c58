"""Whether a base model makes a mask of its tokens, which a prompt behind a module that embeds them must be in."""

from __future__ import annotations

from textwrap import indent

import pytest

from adapter_codegen.model import BasePlan
from adapter_codegen.parse import ModelEntry, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.stream.base import plan_base
from adapter_codegen.plan.stream.lists.candidates import Candidates

TEXT = """
import torch
from torch import nn
from ...modeling_utils import PreTrainedModel
from .configuration_tiny import TinyConfig

class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.q = nn.Linear(2, 2)
        self.o = nn.Linear(2, 2)
    def forward(self, x, mask):
        return self.o(nn.functional.scaled_dot_product_attention(self.q(x), x, x, mask))

class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.up = nn.Linear(2, 2)
    def forward(self, x, mask):
        x = x + self.attention(x, mask)
        return x + self.up(x)

class Embeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.words = nn.Embedding(8, 8)
    def forward(self, input_ids):
        return self.words(input_ids)

class TinyPreTrainedModel(PreTrainedModel):
    config: TinyConfig
    base_model_prefix = "tiny"

class TinyModel(TinyPreTrainedModel):
    def __init__(self, config: TinyConfig):
        super().__init__(config)
        self.embeddings = BUILT
        self.layers = nn.ModuleList([Layer(config) for _ in range(3)])
    def forward(self, input_ids=None, attention_mask=None, pixel_mask=None, inputs_embeds=None):
MADE
        x = self.embeddings(input_ids)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x
"""
BEHIND = "Embeddings(config)"
ASKED = "if attention_mask is None:\n    attention_mask = torch.ones(input_ids.shape)"


def planned(made: str, built: str = BEHIND) -> BasePlan:
    entry = ModelEntry("tiny", "models/tiny/modeling_tiny.py", "TinyConfig", "", "TinyModel", {})
    facts = parse_module(TEXT.replace("MADE", indent(made, "        ")).replace("BUILT", built), entry.path)
    plan, _ = plan_base(facts, entry, Candidates(facts, Kinds(facts)).has_attention)
    assert plan is not None and plan.embedding_output == "embeddings"
    return plan


@pytest.mark.parametrize(
    "made",
    [
        pytest.param("", id="nothing is made"),
        pytest.param(
            "if attention_mask is not None:\n    more = torch.ones(3, 1)\n    attention_mask = torch.cat([attention_mask, more], 1)",
            id="one that is given gets longer (VideoPrism)",
        ),
        pytest.param("attention_mask = create_mask(attention_mask)", id="made of what is given, and of nothing too"),
        pytest.param("if pixel_mask is None:\n    pixel_mask = torch.ones(3, 4)", id="another mask is"),
        pytest.param(
            "if attention_mask is not None and attention_mask.dim() == 4:\n    attention_mask = attention_mask[:, 0, 0]",
            id="one of a further shape is made smaller",
        ),
        pytest.param("if attention_mask is None:\n    pixel_mask = None", id="what is None stays so"),
        pytest.param(
            "if attention_mask == 1:\n    attention_mask = torch.ones(3, 4)", id="it is compared with a number"
        ),
        pytest.param("pixel_mask = 1 if attention_mask is None else 2", id="a number is chosen by it"),
    ],
)
def test_no_mask_is_made(made: str) -> None:
    assert not planned(made).makes_mask


def test_none_is_made_of_tokens_alone_where_the_prompt_comes_in_as_tokens_do() -> None:
    assert not planned(ASKED, "nn.Embedding(8, 8)").makes_mask


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(ASKED, id="in a branch"),
        pytest.param(f"if input_ids is not None:\n{indent(ASKED, '    ')}", id="in a branch within another"),
        pytest.param(
            "if attention_mask is not None:\n    pass\nelse:\n    attention_mask = input_ids.ne(0)", id="otherwise"
        ),
        pytest.param(
            "attention_mask = torch.ones(3, 4) if attention_mask is None else attention_mask", id="in an expression"
        ),
        pytest.param(
            "attention_mask = attention_mask if attention_mask is not None else input_ids.new_ones(3, 4)",
            id="in one the other way round",
        ),
        pytest.param(
            "mask = attention_mask\nif attention_mask is None:\n    mask = torch.ones(3, 4)", id="under another name"
        ),
        pytest.param(
            "if attention_mask is None and input_ids is not None:\n    attention_mask = torch.ones(input_ids.shape)",
            id="beside another condition",
        ),
    ],
)
def test_a_mask_is_made(made: str) -> None:
    assert planned(made).makes_mask
