"""Gates: a module of upstream's that weighs the stream and what a sublayer gave, and adds both."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionKind, AttentionRoles, Joining, Placement, ResidualSite, Role
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer

GATE = """
class Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate = nn.Linear(2 * width, 2 * width)
        self.other = nn.Linear(2 * width, width)
        self.one = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.table = nn.Parameter(torch.zeros(width))

    def forward(self, {parameters}):
        {forward}

"""
USUAL = """
weights = torch.sigmoid(self.gate(torch.cat([stream, branch], dim=-1)))
first, second = weights.chunk(2, dim=-1)
return self.norm(first * stream + second * branch)
"""
LAYER = """
residual = self.norm1(x)
x, _ = self.attention(residual, mask)
x = {}
return x + self.mlp(self.norm2(x))
"""


def plan_gated(
    forward: str = USUAL, call: str = "self.gate(residual, x)", parameters: str = "stream, branch"
) -> ModulePlan:
    gate = GATE.format(parameters=parameters, forward=forward.strip().replace("\n", "\n        "))
    made = layer(LAYER.format(call), "self.gate = Gate(8)\nself.gated = config.gated\nself.scale = 0.5")
    return plan_module(facts_of(ATTENTION, MLP, gate, made, STACK))


def sites(plan: ModulePlan) -> list[ResidualSite]:
    return [site for entry in plan.classes for site in entry.residual_sites]


def attending(plan: ModulePlan) -> list[tuple[str, str | None, Placement]]:
    found = [site for site in sites(plan) if site.role is Role.ATTENTION]
    return [(site.branch.code, site.residual.code if site.residual else None, site.placement) for site in found]


def test_adapters_stand_in_front_of_a_gate() -> None:
    plan = plan_gated()
    assert attending(plan) == [("x", "residual", Placement.BRANCH)]
    roles = {role.host: role.joins for role in plan.layers[0].bottlenecks}
    assert roles == {"attention_adapters": Joining.UPSTREAM, "output_adapters": Joining.HOST}
    assert not plan.entries[0].gaps


@pytest.mark.parametrize(
    ("forward", "call"),
    [
        pytest.param(USUAL, "self.gate(x, residual)", id="the branch first"),
        pytest.param(USUAL, "self.gate(branch=residual, stream=x)", id="by names that say the opposite"),
        pytest.param(USUAL.replace("self.norm(", "("), "self.gate(residual, x)", id="without a norm"),
        pytest.param(
            USUAL.replace("first * stream", "stream * first"), "self.gate(residual, x)", id="the gate behind"
        ),
        pytest.param(USUAL.replace("[stream, branch]", "[branch, stream]"), "self.gate(residual, x)", id="joined so"),
        pytest.param(USUAL.replace("chunk(2, dim=-1)", "split(8, -1)"), "self.gate(residual, x)", id="split"),
        pytest.param(
            USUAL.replace("first * stream", "torch.sigmoid(self.other(torch.cat([stream, branch], -1))) * stream"),
            "self.gate(residual, x)",
            id="a gate of its own",
        ),
    ],
)
def test_the_data_flow_says_which_argument_is_the_branch(forward: str, call: str) -> None:
    plan = plan_gated(forward, call)
    assert attending(plan) == [("x", "residual", Placement.BRANCH)]
    assert not plan.entries[0].gaps


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("first * stream + second * branch", "second * branch"), id="one argument alone"),
        pytest.param(("first * stream + second * branch", "stream * first"), id="the stream alone"),
        pytest.param(("first * stream + second * branch", "first * branch + second * branch"), id="the branch twice"),
        pytest.param(("first * stream + second * branch", "first * stream + second * stream"), id="the stream twice"),
        pytest.param(("first * stream + second * branch", "first * stream - second * branch"), id="a difference"),
        pytest.param(("first * stream", "stream * branch"), id="a product of both"),
        pytest.param(("first * stream", "first * self.one(stream)"), id="another step of the stream"),
        pytest.param(("second * branch", "second * branch.mean(1, keepdim=True)"), id="a mean over positions"),
        pytest.param(("second * branch", "second * branch.flip(1)"), id="positions in another order"),
        pytest.param(("second * branch)", "second * branch).mean(1)"), id="a mean of the sum"),
        pytest.param(("dim=-1)))", "dim=1)))"), id="joined over positions"),
        pytest.param((", dim=-1)))", ")))"), id="joined over rows"),
        pytest.param(("chunk(2, dim=-1)", "chunk(2, dim=1)"), id="cut over positions"),
        pytest.param(("chunk(2, dim=-1)", "chunk(2)"), id="cut over rows"),
        pytest.param(("torch.sigmoid(self", "torch.softmax(self"), id="a softmax"),
        pytest.param(("torch.sigmoid(self", "torch.tanh(self"), id="a weight that may be negative"),
        pytest.param(("torch.sigmoid(self", "torch.cumsum(self"), id="a sum over positions"),
        pytest.param(("torch.cat([stream, branch], dim=-1)", "stream.mean(1)"), id="a gate of a mean"),
        pytest.param(
            ("torch.cat([stream, branch], dim=-1)", "torch.cat([branch, branch], dim=-1)"), id="a gate of one"
        ),
        pytest.param(("return", "if self.training:\n    return branch\nreturn"), id="the branch at times"),
    ],
)
def test_a_module_that_only_looks_like_a_gate_is_refused(change: tuple[str, str]) -> None:
    assert change[0] in USUAL
    plan = plan_gated(USUAL.replace(*change))
    assert not any(site.role is Role.ATTENTION and site.placement is Placement.BRANCH for site in sites(plan))
    assert plan.entries[0].gaps
    assert all(gap.location is not None for gap in plan.entries[0].gaps)


@pytest.mark.parametrize("stream", ["stream", "self.table * stream"])
def test_a_stream_that_no_gate_weighs_is_added_to_as_elsewhere(stream: str) -> None:
    site, _ = sites(plan_gated(USUAL.replace("first * stream", stream)))
    assert (site.class_name, site.branch.code) == ("Gate", "second * branch")
    assert site.placement is Placement.NORM_OF_ADDITION


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        pytest.param("self.gate(residual, x, states)", "stream, branch, third", id="a third argument"),
        pytest.param("self.gate(residual, x)", "stream, branch, third=None", id="one that nobody gives here"),
        pytest.param("self.gate(states, x)", "stream, branch", id="a stream that the sublayer never read"),
        pytest.param("self.gate(residual, self.mlp(states))", "stream, branch", id="a sublayer that reads others"),
        pytest.param("self.gate(self.norm2(residual), x)", "stream, branch", id="a stream that has no name"),
        pytest.param("self.gate(residual, *rest)", "stream, branch", id="an argument behind a star"),
        pytest.param("self.gate(residual, residual)", "stream, branch", id="no branch"),
        pytest.param("self.gate(residual, x + self.mlp(residual))", "stream, branch", id="two sublayers"),
    ],
)
def test_a_gate_of_other_arguments_is_refused(call: str, parameters: str) -> None:
    plan = plan_gated(USUAL, call, parameters)
    assert attending(plan) == []
    assert plan.entries[0].gaps
    assert all(gap.location is not None for gap in plan.entries[0].gaps)


EITHER = """
residual = self.norm1(x)
x, _ = self.attention(residual, mask)
if self.gated:
    x = self.gate(residual, x)
else:
    {}
    x = self.norm2(x)
return x + self.mlp(x)
"""


def plan_either(added: str) -> ModulePlan:
    gate = GATE.format(parameters="stream, branch", forward=USUAL.strip().replace("\n", "\n        "))
    made = layer(EITHER.format(added), "self.gate = Gate(8) if config.gated else None\nself.gated = config.gated")
    return plan_module(facts_of(ATTENTION, MLP, gate, made, STACK))


def test_a_plain_sum_in_the_place_of_the_gate_has_the_same_host() -> None:
    plan = plan_either("x = residual + x")
    assert attending(plan) == [("x", "residual", Placement.BRANCH)] * 2
    assert [role.joins for role in plan.layers[0].bottlenecks] == [Joining.UPSTREAM, Joining.HOST]
    assert not plan.entries[0].gaps


@pytest.mark.parametrize(
    "added",
    [
        pytest.param("x += residual", id="where the branch is assigned to"),
        pytest.param("x = self.norm1(residual) * 1.0 + x", id="where the stream has no name"),
    ],
)
def test_a_sum_in_the_place_of_the_gate_that_no_host_can_stand_in_front_of_is_refused(added: str) -> None:
    plan = plan_either(added)
    assert any("elsewhere" in gap.message or "No operand" in gap.message for gap in plan.entries[0].gaps)


# Deformable attention of D-FINE: no projection of values and of outputs, a function that a module holds, a gate behind it

SAMPLE = """
def sample(value, places, weights):
    return F.grid_sample(value.flatten(2).transpose(1, 2), places) * weights


def spread(value, places, weights):
    return value


"""
SAMPLING = """
class Attention(nn.Module):
    def __init__(self, config{argument}):
        super().__init__()
        self.offsets = nn.Linear(8, 16)
        {held}

    def forward(self, states, other):
        value = other.reshape(states.shape[0], states.shape[1], 2, 4)
        places = self.offsets(states).view(states.shape[0], states.shape[1], 2, 4, 2)
        return self.core(value, places, F.softmax(places, -1)), None

"""


def plan_sampling(held: str = "self.core = sample", argument: str = "", more: str = "") -> ModulePlan:
    gate = GATE.format(parameters="stream, branch", forward=USUAL.strip().replace("\n", "\n        "))
    lines = LAYER.format("self.gate(residual, x)").replace("mask", "states")
    text = SAMPLING.format(held=held, argument=argument)
    return plan_module(facts_of(SAMPLE, text, MLP, gate, layer(lines, "self.gate = Gate(8)"), STACK, more))


def test_a_function_that_a_module_holds_is_followed() -> None:
    (found,) = plan_sampling().layers
    assert found.attentions == (AttentionRoles(core="attention", kind=AttentionKind.CROSS),)
    assert [role.location for role in found.bottlenecks] == [Role.CROSS_ATTENTION, Role.OUTPUT]


@pytest.mark.parametrize(
    ("held", "argument", "more"),
    [
        pytest.param("self.core = partial(sample)", "", "", id="made of it"),
        pytest.param("self.core = sample", ", sample=None", "", id="an argument of that name"),
        pytest.param("self.core = sample\n        self.core = spread", "", "", id="two functions"),
        pytest.param("sample = spread\n        self.core = sample", "", "", id="a local name"),
        pytest.param("self.core = sample", "", "def swap(model):\n    model.core = spread\n", id="set from outside"),
        pytest.param("self.core = sample", "", "def swap(a):\n    a.core, x = spread, 1\n", id="set as one of two"),
        pytest.param("self.core = other_sample", "", "", id="no function of the file"),
    ],
)
def test_an_attribute_that_may_be_something_else_is_no_such_function(held: str, argument: str, more: str) -> None:
    assert not any(found.attentions for found in plan_sampling(held, argument, more).layers)
