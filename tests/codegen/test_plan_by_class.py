"""One sublayer per layer, of which a config says what it is: an attention, a mixer, or a feed-forward block (Nemotron-H)."""

from __future__ import annotations

import pytest

from adapter_codegen.model import LayerPlan, Role
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import ATTENTION, MLP, STACK, facts_of

LAYER = """
KINDS = {{"attention": Attention, "other": Other}}


class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.kind = config.kind
        self.mixer = KINDS[self.kind](config)

    def forward(self, x, mask=None):
        residual = x
        x = self.norm(x)
        if self.kind == "attention":
            x, _ = self.mixer(x, mask=mask)
        else:
            x = self.mixer(x)
        return residual + x
"""
ATTENDS = [("residual_adapters", Role.ATTENTION, ("Attention",))]


def other(forward: str, parameters: str = "x") -> str:
    """The other class of the mixer."""
    lines = "\n".join(f"        {line}" for line in forward.splitlines())
    return f"""
class Other(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.experts = nn.Parameter(torch.zeros(2, 8, 8))

    def forward(self, {parameters}):
{lines}
"""


def plan_of(*text: str) -> ModulePlan:
    return plan_module(facts_of(ATTENTION, MLP, other(*text), LAYER.format(), STACK))


def places(plan: LayerPlan) -> list[tuple[str, Role, tuple[str, ...]]]:
    return [(role.host, role.location, role.classes) for role in plan.bottlenecks]


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param("return self.down(F.gelu(self.up(x)))", id="a plain one"),
        pytest.param("x = torch.bmm(x, self.experts)\nreturn self.down(F.gelu(self.up(x)))", id="one with experts"),
    ],
)
def test_where_the_only_sublayer_may_be_a_feed_forward_block_the_place_is_its_output_there(forward: str) -> None:
    plan = plan_of(forward)
    (layer,) = plan.layers
    assert places(layer) == [*ATTENDS, ("residual_adapters", Role.OUTPUT, ("Other",))]
    assert {role.sublayer for role in layer.bottlenecks} == {"mixer"}
    assert (layer.mlp.first, layer.mlp.last) == (("mixer.up",), ("mixer.down",))
    assert {"mixer.up", "mixer.down"} <= set(layer.optional)
    assert plan.entries[0].gaps == () and layer.without == ()


@pytest.mark.parametrize(
    "forward",
    [
        pytest.param("return self.down(torch.cumsum(self.up(x), 1))", id="it sums positions up"),
        pytest.param("return self.down(F.gelu(self.conv(self.up(x))))", id="it convolves"),
        pytest.param(
            "scores = self.up(x) @ x.transpose(1, 2)\nreturn self.down(F.gelu(scores))", id="it is linear attention"
        ),
    ],
)
def test_a_mixer_stands_in_the_place_of_the_attention(forward: str) -> None:
    (layer,) = plan_of(forward).layers
    assert places(layer) == [("attention_adapters", Role.ATTENTION, ())]


@pytest.mark.parametrize(
    ("forward", "parameters"),
    [
        pytest.param("return self.down(F.gelu(self.up(x)))", "x, cache=None", id="it is given more than the stream"),
        pytest.param("return kernel(x, self.experts)", "x", id="nothing in it is known"),
    ],
)
def test_what_is_neither_for_certain_does_not_divide_the_place(forward: str, parameters: str) -> None:
    (layer,) = plan_of(forward, parameters).layers
    assert places(layer) == [("attention_adapters", Role.ATTENTION, ())]


def test_a_third_class_of_which_nothing_is_known_leaves_no_place() -> None:
    text = (
        LAYER.format()
        .replace('"other": Other', '"other": Other, "third": Mlp')
        .replace("self.mixer(x)", "self.mixer(x)")
    )
    plan = plan_module(facts_of(ATTENTION, MLP, other("return kernel(x, self.experts)"), text, STACK))
    (layer,) = plan.layers
    assert places(layer) == []
    assert [gap.code for gap in plan.entries[0].gaps] == ["P242"]
    assert "Other" in plan.entries[0].gaps[0].message


def test_classes_that_do_the_same_share_one_place() -> None:
    text = LAYER.format().replace('"attention": Attention, "other": Other', '"other": Other, "third": Mlp')
    text = text.replace("x, _ = self.mixer(x, mask=mask)", "x = self.mixer(x)")
    held = "class Held(nn.Module):\n    def __init__(self, config):\n        super().__init__()\n        self.layers = nn.ModuleList([Layer(config), Own(config)])\n\n    def forward(self, x):\n        for layer in self.layers:\n            x = layer(x)\n        return x\n"
    own = "class Own(nn.Module):\n    def __init__(self, config):\n        super().__init__()\n        self.attention = Attention(config)\n\n    def forward(self, x):\n        return x + self.attention(x)[0]\n"
    plan = plan_module(facts_of(ATTENTION, MLP, other("return self.down(F.gelu(self.up(x)))"), text, own, held))
    found = {layer.class_name: places(layer) for layer in plan.layers}
    assert found["Layer"] == [("output_adapters", Role.OUTPUT, ())]
