"""Additions beside a layer, in the loop that runs through the list: whose they are, and what must not be taken for them."""

from __future__ import annotations

import textwrap

import pytest

from adapter_codegen.model import Placement, ResidualSite, Role
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import ATTENTION, MLP, facts_of

OWN_ADDITION = """
class Own(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mlp = Mlp(config)

    def forward(self, x):
        return x + self.mlp(x)

"""
INIT = """
class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.count = config.count
        self.flag = config.flag
        self.attentions = nn.ModuleList([Attention(config) for _ in range(2)])
        self.blocks = nn.ModuleList([Mlp(config) for _ in range(2)])
        self.layers = nn.ModuleList([Own(config) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(2)])

    def forward(self, states, mask=None, other=None):
"""
INDEXED = "for i in range(self.count):\n"
ATTENDING = "    states = states + self.attentions[i](states, mask)[0]\n"
FEEDING = "    states = states + self.blocks[i](self.norms[i](states))\n"


def plan(body: str, more: str = "") -> ModulePlan:
    lines = textwrap.indent(f"{body.rstrip()}\nreturn states\n", " " * 8)
    return plan_module(facts_of(ATTENTION, MLP, OWN_ADDITION, INIT.lstrip("\n") + lines, more))


def sites(found: ModulePlan) -> list[ResidualSite]:
    return [site for entry in found.classes if entry.name == "Stack" for site in entry.residual_sites]


def test_both_additions_of_a_turn_belong_to_the_layer_of_this_turn() -> None:
    found = plan(INDEXED + ATTENDING + FEEDING)
    (layer,) = (one for one in found.layers if one.class_name == "Attention")
    assert [(role.host, role.location) for role in layer.bottlenecks] == [
        ("attention_adapters", Role.ATTENTION),
        ("output_adapters", Role.OUTPUT),
    ]
    assert [(site.holder, site.host, site.function) for site in sites(found)] == [
        ("self.attentions[i]", "attention_adapters", "forward"),
        ("self.attentions[i]", "output_adapters", "forward"),
    ]
    assert layer.attentions[0].query == "q"


@pytest.mark.parametrize(
    ("body", "holder"),
    [
        pytest.param(
            "for layer in self.attentions:\n    states = states + layer(states, mask)[0]\n", "layer", id="the variable"
        ),
        pytest.param(
            "for i, layer in enumerate(self.attentions):\n    given = layer(states)[0]\n    states = states + given\n",
            "layer",
            id="one of two variables",
        ),
        pytest.param(
            INDEXED
            + "    given = F.dropout(self.attentions[i](self.norms[i](states))[0], 0.1)\n    states += given\n",
            "self.attentions[i]",
            id="by its index, with dropout and a norm ahead",
        ),
    ],
)
def test_what_gives_the_layer_at_the_addition(body: str, holder: str) -> None:
    (site,) = sites(plan(body))
    assert (site.holder, site.placement) == (holder, Placement.ADDITION)


def test_the_norm_in_the_next_statement_is_taken_along() -> None:
    (site,) = sites(plan(INDEXED + ATTENDING + "    states = self.norms[i](states)\n"))
    assert site.placement is Placement.NORM_IN_NEXT_STATEMENT
    assert site.norm is not None and site.norm.code == "self.norms[i]"


def test_a_checkpoint_in_another_loop_has_the_same_adapters() -> None:
    loop = "    for layer in self.attentions:\n        states = states + {}[0]\n"
    checkpointed = loop.format("torch.utils.checkpoint.checkpoint(layer, states)")
    found = sites(plan(f"if self.flag and self.training:\n{checkpointed}else:\n{loop.format('layer(states)')}"))
    assert [site.host for site in found] == ["attention_adapters"] * 2


def test_what_such_a_layer_gives_is_no_stream() -> None:
    found = plan(INDEXED + ATTENDING + FEEDING)
    assert [entry.has_additions for entry in found.entries if entry.plan.class_name == "Attention"] == [False]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(INDEXED + "    states = self.attentions[i](states)[0]\n", id="it takes the place of the stream"),
        pytest.param(
            INDEXED + ATTENDING + "    states = torch.fft.fft(states)\n",
            id="a step that is not followed stands behind it",
        ),
        pytest.param(
            INDEXED + ATTENDING + "    states = self.layers[i](states)\n", id="another layer adds inside of itself"
        ),
        pytest.param(INDEXED + ATTENDING.replace("[i](", "[i + 1]("), id="the layer is that of another turn"),
        pytest.param(
            INDEXED + "    given = self.attentions[i](states)[0]\n    i = i + 1\n    states = states + given\n",
            id="the counter is another one by then",
        ),
        pytest.param(
            "for i, layer in enumerate(self.attentions):\n    given = self.attentions[i - 1](states)[0]\n    states = states + given\n    layer, _ = self.attentions[i], layer\n",
            id="the layer that is named is not the one that is called",
        ),
        pytest.param("i = 0\nfor _ in range(self.count):\n" + ATTENDING, id="the index does not count the turns"),
        pytest.param(
            INDEXED
            + "    given = self.attentions[i](states + other)[0]\n    states, other = states + given, other + given\n",
            id="two streams are handed on",
        ),
        pytest.param(
            INDEXED + "    given = self.attentions[i](states)[0]\nstates = states + given\n",
            id="it is added behind the loop",
        ),
        pytest.param(
            INDEXED + "    if self.flag:\n    " + ATTENDING + FEEDING,
            id="a flag of the owner decides, which the layer lacks",
        ),
        pytest.param(
            INDEXED + ATTENDING + "    states = states + other\n", id="what came out of no module is added as well"
        ),
    ],
)
def test_what_a_loop_does_not_show_for_certain_has_no_site(body: str) -> None:
    found = plan(body)
    assert sites(found) == []
    assert all(not layer.bottlenecks for layer in found.layers if layer.class_name == "Attention")


def test_a_class_that_stands_in_two_lists_has_no_site() -> None:
    other = INIT.replace("class Stack", "class Twin") + "        return states\n"
    assert sites(plan(INDEXED + ATTENDING, other)) == []


def test_layers_of_two_classes_in_one_list_have_no_site() -> None:
    mixed = INIT.replace("[Attention(config) for _ in range(2)]", "[Attention(config), Own(config)]")
    lines = textwrap.indent(INDEXED + ATTENDING + "return states\n", " " * 8)
    assert sites(plan_module(facts_of(ATTENTION, MLP, OWN_ADDITION, mixed.lstrip("\n") + lines))) == []
