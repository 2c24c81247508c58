"""Small modules for the tests of the recognisers."""

from __future__ import annotations

import textwrap

from adapter_codegen.model import Method, PrefixSite
from adapter_codegen.parse import ModuleFacts, parse_module
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Flow
from adapter_codegen.plan.module import ModulePlan, plan_module

HEADER = """
import torch
from torch import nn
from torch.nn import functional as F
from ...modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    return torch.matmul(weights, value), weights

"""

ATTENTION = """
class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.q = nn.Linear(8, 8)
        self.k = nn.Linear(8, 8)
        self.v = nn.Linear(8, 8)
        self.o = nn.Linear(8, 8)

    def forward(self, states, mask=None, **kwargs):
        shape = (*states.shape[:-1], -1, self.head_dim)
        query = self.q(states).view(shape).transpose(1, 2)
        key = self.k(states).view(shape).transpose(1, 2)
        value = self.v(states).view(shape).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)
        out, weights = attend(self, query, key, value, mask, scaling=self.scaling, **kwargs)
        return self.o(out.reshape(*states.shape[:-1], -1)), weights

"""

PROJECT = """
shape = (*states.shape[:-1], -1, self.head_dim)
query = self.q(states).view(shape).transpose(1, 2)
key = self.k(states).view(shape).transpose(1, 2)
value = self.v(states).view(shape).transpose(1, 2)
"""
RETURN = "return self.o(out), weights"

MLP = """
class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))

"""

STACK = """
class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(2)])

    def forward(self, states):
        for layer in self.layers:
            states = layer(states)
        return states
"""


def layer(forward: str, init: str = "") -> str:
    """A layer class with attention, MLP and norms whose forward is the given lines."""
    head = """
    class Layer(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.attention = Attention(config)
            self.mlp = Mlp(config)
            self.norm1 = nn.LayerNorm(8)
            self.norm2 = nn.LayerNorm(8)
            self.dropout = nn.Dropout(0.1)
    """
    body = textwrap.indent(textwrap.dedent(init).strip("\n"), " " * 8)
    lines = textwrap.indent(textwrap.dedent(forward).strip("\n"), " " * 8)
    return (
        f"{textwrap.dedent(head).rstrip()}\n{body}\n\n    def forward(self, x, mask=None, states=None):\n{lines}\n\n"
    )


def facts_of(*parts: str) -> ModuleFacts:
    return parse_module(HEADER + "\n".join(parts), "models/snippet/modeling_snippet.py")


def plan_of_layer(forward: str, init: str = "", attention: str = ATTENTION) -> ModulePlan:
    return plan_module(facts_of(attention, MLP, layer(forward, init), STACK))


def plan_of_attention(*lines: str, parameters: str = "states, mask=None, bias=None, **kwargs") -> ModulePlan:
    """The plan of a layer whose attention has the given lines as its forward (instead of the usual one)."""
    head, _, _ = ATTENTION.partition("    def forward")
    body = textwrap.indent("\n".join(textwrap.dedent(line).strip("\n") for line in lines), " " * 8)
    attention = f"{head}    def forward(self, {parameters}):\n{body}\n\n"
    return plan_of_layer(
        "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))", "", attention
    )


def flow_of(source: str, class_name: str) -> tuple[Flow, Kinds, ModuleFacts]:
    facts = facts_of(source)
    flow = trace(facts, class_name)
    assert flow is not None
    return flow, Kinds(facts), facts


def tiny_decoder(config: str) -> str:
    """The text of a file with a decoder that embeds tokens, whose constructor takes a config of the class `config`."""
    made_of = layer("""
        x = x + self.attention(self.norm1(x))[0]
        return x + self.mlp(self.norm2(x))
    """)
    imports = "from ...modeling_utils import PreTrainedModel\nfrom ..other.modeling_other import OtherModel\n"
    decoder = textwrap.dedent(f"""
        class TinyPreTrainedModel(PreTrainedModel):
            config: TinyConfig
            base_model_prefix = "model"

        class TinyDecoder(TinyPreTrainedModel):
            def __init__(self, config: {config}):
                super().__init__(config)
                self.embed = nn.Embedding(9, 8)
                self.layers = nn.ModuleList([Layer(config) for _ in range(2)])

            def forward(self, input_ids=None, inputs_embeds=None):
                states = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
                for layer in self.layers:
                    states = layer(states)
                return states
        """)
    return HEADER + imports + ATTENTION + MLP + made_of + decoder


def prefix_sites(plan: ModulePlan) -> list[PrefixSite]:
    return [site for entry in plan.classes for site in entry.prefix_sites]


def codes(plan: ModulePlan) -> set[str]:
    return {one.code for one in plan.diagnostics if Method.PREFIX_TUNING in one.methods}


def scores(*between: str) -> tuple[str, ...]:
    first = "scores = torch.matmul(query, key.transpose(-1, -2)) * self.scaling"
    last = "weights = torch.softmax(scores, dim=-1)\nout = torch.matmul(weights, value)\n" + RETURN
    return (PROJECT, first, *between, last)
