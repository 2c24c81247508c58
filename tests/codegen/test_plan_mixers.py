"""Which projections are those of a sublayer that mixes positions without attention: Mamba's, recurrences, convolutions."""

from __future__ import annotations

import pytest

from adapter_codegen.model import MixerRoles
from adapter_codegen.plan.module import plan_module
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer, plan_of_layer

FEED = "\nreturn x + self.mlp(self.norm2(x))"
NAMES = ("up", "time", "side", "down")
READS_TOKENS = STACK.replace(
    "self, states", "self, input_ids, states"
)  # a file without attention is one of such models
INIT = "\n".join(f"self.{name} = nn.Linear(8, 8)" for name in NAMES) + "\nself.conv = nn.Conv1d(8, 8, 3)"
MIX = "h = self.conv(self.up(self.norm1(x)))\n"


def mixer_of(forward: str, init: str = INIT) -> MixerRoles:
    return plan_module(facts_of(MLP, layer(forward, init), READS_TOKENS)).layers[0].mixer


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        pytest.param(
            f"x = x + self.mlp(self.norm1(x)){FEED}", MixerRoles(), id="two feed-forward blocks mix no positions"
        ),
        pytest.param(
            f"{MIX}w = torch.relu(h @ self.down.weight)\nx = x + self.down(h){FEED}",
            MixerRoles(("up",)),
            id="what gives the output is computed with beside its call: only the first is one",
        ),
        pytest.param(
            f"{MIX}fast = kernel(h, weight=self.up.weight, bias=self.up.bias)\nif fast is not None:\n    return x + fast\n"
            f"x = x + self.down(h){FEED}",
            MixerRoles((), ("down",)),
            id="a kernel takes the weight of the first",
        ),
        pytest.param(
            f"{MIX}t = self.time(h)\nx = x + self.down(h * torch.exp(t)){FEED}",
            MixerRoles(("up",), ("down",)),
            id="what is made of the first between both is none of them",
        ),
        pytest.param(
            f"x = x + torch.cumsum(self.up(self.norm1(x)), 1){FEED}",
            MixerRoles(),
            id="no projection gives what is added",
        ),
        pytest.param(
            f"{MIX}x = x + self.norm1(x) * h{FEED}",
            MixerRoles(),
            id="what is added is a product, of no projection alone",
        ),
    ],
)
def test_what_is_no_projection_of_a_mixer(forward: str, expected: MixerRoles) -> None:
    assert mixer_of(forward) == expected


def test_the_projections_of_attention_are_none_of_a_mixer() -> None:
    plan = plan_of_layer(f"x = x + self.attention(self.norm1(x), mask)[0]{FEED}", INIT)
    assert plan.layers[0].mixer == MixerRoles()


def test_a_convolution_in_the_feed_forward_block_beside_attention_makes_no_mixer() -> None:
    text = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.down(F.silu(self.conv(self.up(self.norm2(x)))))"
    assert plan_of_layer(text, INIT).layers[0].mixer == MixerRoles()


@pytest.mark.parametrize(
    ("forward", "first"),
    [
        pytest.param(f"{MIX}x = x + self.down(h){FEED}", ("up",), id="a convolution"),
        pytest.param(
            f"x = x + self.down(torch.cumsum(self.up(self.norm1(x)), 1)){FEED}", ("up",), id="a sum over positions"
        ),
        pytest.param(f"{MIX}x = x + self.down(h * self.side(x)){FEED}", ("up", "side"), id="a gate that reads it too"),
        pytest.param(f"{MIX}x = x + self.down(h.to(self.up.weight.dtype)){FEED}", ("up",), id="only its type is read"),
        pytest.param("return x + self.down(self.conv(self.up(x)))", ("up",), id="the only sublayer"),
    ],
)
def test_the_projections_of_a_mixer(forward: str, first: tuple[str, ...]) -> None:
    assert mixer_of(forward) == MixerRoles(first, ("down",))


def test_a_mixer_may_stand_in_the_place_of_the_attention_of_other_layers() -> None:
    attends = "if self.attends:\n    h = self.attention(x, mask)[0]\nelse:\n    h = self.down(self.conv(self.up(x)))\n"
    plan = plan_of_layer(f"{attends}x = x + h{FEED}", INIT)
    assert plan.layers[0].mixer == MixerRoles(("up",), ("down",))


def test_a_projection_of_only_some_layers_is_optional() -> None:
    init = f"{INIT}\nif config.wide:\n    self.side = nn.Linear(8, 8)"
    text = f"{MIX}if self.wide:\n    h = h * self.side(x)\nx = x + self.down(h){FEED}"
    plan = plan_module(facts_of(MLP, layer(text, init.replace("self.side = nn.Linear(8, 8)\n", "", 1)), READS_TOKENS))
    assert plan.layers[0].mixer.first == ("up", "side")
    assert "side" in plan.layers[0].optional


DELTA = """
class Delta(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.{name} = nn.Linear(8, 8)
        self.wide = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.{last} = nn.Linear(8, 8)

    def forward(self, states, mask=None):
        return self.{last}(self.conv(self.{name}(states) * self.wide(states))), None

"""


@pytest.mark.parametrize(
    ("name", "last", "expected"),
    [
        pytest.param("read", "give", MixerRoles(("mix.read", "mix.wide"), ("mix.give",)), id="names of its own"),
        pytest.param(
            "q", "give", MixerRoles(("mix.wide",), ("mix.give",)), id="the attention's queries have the name"
        ),
        pytest.param("read", "o", MixerRoles(("mix.read", "mix.wide")), id="the attention's output has the name"),
    ],
)
def test_a_name_that_attention_in_other_layers_has_is_no_place_of_a_mixer(
    name: str, last: str, expected: MixerRoles
) -> None:
    """Kimi Linear's ``self_attn.q_proj``: an update there would be one of queries in some layers."""
    init = "self.mix = Attention(config) if config.attends else Delta(config)"
    text = layer(f"x = x + self.mix(self.norm1(x), mask)[0]{FEED}", init)
    plan = plan_module(facts_of(ATTENTION, DELTA.format(name=name, last=last), MLP, text, STACK))
    assert plan.layers[0].mixer == expected
