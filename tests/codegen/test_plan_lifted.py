"""Additions that upstream makes in a function or module of its own, or in a mix of several streams."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Joining, Placement, ResidualSite, Role, StreamForm
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer


def sites(plan: ModulePlan) -> list[ResidualSite]:
    return [site for entry in plan.classes for site in entry.residual_sites]


ADD = """
def add(x, residual, scale=1.0, bias=None):
    {}


"""
LAYER = """
a, _ = self.attention(self.norm1(x), mask)
x = add({})
return x + self.mlp(self.norm2(x))
"""


def plan_with(function: str, call: str = "a, x, self.scale", init: str = "self.scale = 0.5") -> ModulePlan:
    return plan_module(
        facts_of(ATTENTION, MLP, ADD.format(function.replace("\n", "\n    ")), layer(LAYER.format(call), init), STACK)
    )


def attending(plan: ModulePlan) -> list[tuple[str, str | None, Placement]]:
    found = [site for site in sites(plan) if site.role is Role.ATTENTION]
    return [(site.branch.code, site.residual.code if site.residual else None, site.placement) for site in found]


@pytest.mark.parametrize(
    ("function", "call"),
    [
        pytest.param("return x - residual", "a, x", id="a difference"),
        pytest.param("return torch.matmul(x, residual) + residual", "a, x", id="a product of both beside one"),
        pytest.param("return x * torch.sigmoid(residual) + residual", "a, x", id="a gate that reads the stream"),
        pytest.param("return x + x", "a, x", id="the branch twice"),
        pytest.param("return torch.tanh(x) + residual", "a, x", id="another step on the way"),
        pytest.param("return x + residual", "a, states", id="a residual that the sublayer never read"),
        pytest.param("return x + residual", "a, self.mlp(x)", id="two sublayers"),
        pytest.param("return x + residual", "self.table, x", id="a parameter in the place of the sublayer"),
        pytest.param("return x + residual", "a, *rest", id="an argument behind a star"),
        pytest.param("return x + residual", "a, self.norm1(x)", id="a residual that has no name"),
        pytest.param(
            "if bias is None:\n    return residual\nreturn x + residual", "a, x, 1.0, mask", id="none at times"
        ),
        pytest.param(
            "return (x + bias) + residual", "a, x, 1.0, self.mlp(self.norm2(x))", id="a bias out of a sublayer"
        ),
    ],
)
def test_a_function_that_only_looks_like_an_addition_is_left_alone(function: str, call: str) -> None:
    plan = plan_with(function, call, "self.table = nn.Parameter(torch.zeros(8))\nself.scale = 0.5")
    assert attending(plan) == []


@pytest.mark.parametrize(
    "function",
    [
        pytest.param("return residual + x", id="a plain sum"),
        pytest.param("return x + residual", id="in the other order"),
        pytest.param("out = F.dropout(x, p=scale)\nout = residual + out\nreturn out", id="with dropout"),
        pytest.param("return x * scale + residual * (1 - scale)", id="with scales"),
        pytest.param(
            "if bias is not None:\n    x = x + bias\nreturn residual + x", id="with a bias that may be there"
        ),
        pytest.param(
            "out = F.dropout(x, scale)\nif residual is not None:\n    out = residual + out\nreturn out",
            id="with a residual that may be missing",
        ),
    ],
)
def test_adapters_stand_in_front_of_a_function_that_adds(function: str) -> None:
    plan = plan_with(function)
    assert attending(plan) == [("a", "x", Placement.BRANCH)]
    roles = {role.host: role.joins for role in plan.layers[0].bottlenecks}
    assert roles == {"attention_adapters": Joining.UPSTREAM, "output_adapters": Joining.HOST}


def test_arguments_by_keyword_are_found() -> None:
    assert attending(plan_with("return x + residual", "residual=x, x=a")) == [("a", "x", Placement.BRANCH)]


SCALING = """
class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.bias = nn.Parameter(torch.zeros(8))

    def forward(self, x, residual):
        {}

"""


def plan_scaled(forward: str) -> ModulePlan:
    text = "a, _ = self.attention(self.norm1(x), mask)\nx = self.scaling(a, x)\nreturn x + self.mlp(self.norm2(x))"
    return plan_module(
        facts_of(ATTENTION, MLP, SCALING.format(forward), layer(text, "self.scaling = Scaling()"), STACK)
    )


def test_adapters_stand_in_front_of_a_module_that_scales_both_and_adds() -> None:
    plan = plan_scaled("return (x + self.bias) * self.scale + (residual + self.bias) * self.scale")
    assert attending(plan) == [("a", "x", Placement.BRANCH)]


def test_a_module_that_adds_plainly_keeps_its_adapters() -> None:
    site, _ = sites(plan_scaled("return x * self.scale + residual"))
    assert (site.class_name, site.placement) == ("Scaling", Placement.ADDITION)


def test_a_module_whose_scale_reads_the_stream_is_left_alone() -> None:
    assert attending(plan_scaled("return x * residual + (residual + self.bias)")) == []


SLICES = """
n = self.norm2(x)
if self.slow:
    f = torch.zeros_like(x)
    for i in range(2):
        f = f + F.linear(n, {}[:, :4])
else:
    f = self.dense(n)
x = x + self.attention(self.norm1(x), mask)[0]
return add(f, x)
"""


@pytest.mark.parametrize(("weight", "count"), [("self.dense.weight", 2), ("self.other.weight", 1), ("self.table", 1)])
def test_a_product_in_slices_is_the_work_of_its_module(weight: str, count: int) -> None:
    init = "self.slow = config.slow\nself.dense = nn.Linear(8, 8)\nself.other = nn.Linear(8, 8)\nself.table = nn.Parameter(0)"
    text = SLICES.format(weight).replace("n = self.norm2(x)", "n = self.norm2(x)", 1)
    body = text.replace("x = x + self.attention", "x = x + self.attention")
    plan = plan_module(facts_of(ATTENTION, MLP, ADD.format("return residual + x"), layer(_later(body), init), STACK))
    assert len(sites(plan)) == count


def _later(text: str) -> str:
    """The same lines, the attention first."""
    *rest, attention, end = text.strip().split("\n")
    return "\n".join([attention, *rest, end])


HANDED_ON = """
a, _ = self.attention(self.norm1(x), mask)
n = self.norm1(x)
if {before}:
    x = add(a, x)
    n = self.norm2(x)
f = self.mlp(n)
if {together}:
    f += a
return add(f, x)
"""
FLAGS = "self.config = config\nself.parallel = config.parallel"


def plan_handed_on(text: str) -> ModulePlan:
    return plan_module(facts_of(ATTENTION, MLP, ADD.format("return residual + x"), layer(text, FLAGS), STACK))


@pytest.mark.parametrize(
    ("before", "together"),
    [
        ("not self.config.parallel", "self.config.parallel"),
        ("not self.config.new and not self.config.parallel", "self.config.new or self.config.parallel"),
        ("not (self.config.new or self.config.parallel)", "self.config.parallel and x.ndim == 3"),
    ],
)
def test_of_a_sum_that_is_made_only_at_times_each_term_gets_its_adapters(before: str, together: str) -> None:
    plan = plan_handed_on(HANDED_ON.format(before=before, together=together))
    found = [(site.host, site.branch.code, site.residual and site.residual.code) for site in sites(plan)]
    assert found == [
        ("attention_adapters", "a", "x"),
        ("output_adapters", "self.mlp(n)", "x"),
        ("attention_adapters", "a", "x"),
    ]
    assert {site.placement for site in sites(plan)} == {Placement.BRANCH}
    assert [role.host for role in plan.layers[0].bottlenecks] == ["attention_adapters", "output_adapters"]
    assert not plan.entries[0].gaps


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(HANDED_ON.format(before="self.config.new", together="self.config.parallel"), id="both at times"),
        pytest.param(HANDED_ON.format(before="x.ndim == 2", together="not x.ndim == 2"), id="tests of other things"),
        pytest.param(
            HANDED_ON.format(before="not self.parallel", together="self.parallel").replace(
                "f = self", "self.parallel = x.is_cuda\nf = self"
            ),
            id="a flag that changes in between",
        ),
        pytest.param(
            HANDED_ON.format(before="not self.parallel", together="self.parallel")
            .replace("f = self", "y = x\nx = n\nf = self")
            .replace("return", "x = y\nreturn"),
            id="a name of the residual that means something else at the sublayer",
        ),
        pytest.param(
            HANDED_ON.format(before="not self.parallel", together="self.parallel").replace("f += a", "f = f + a + a"),
            id="a term that is added twice",
        ),
    ],
)
def test_a_sum_that_is_made_only_at_times_in_another_form_is_refused(text: str) -> None:
    plan = plan_handed_on(text)
    assert all(site.role is Role.ATTENTION and site.host == "attention_adapters" for site in sites(plan))
    assert any("a sum of sublayers in some models" in found.message for found in plan.diagnostics)
    assert any("a sum of sublayers in some models" in gap.message for gap in plan.entries[0].gaps)


CONNECTION = """
class Connection(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x):
        post = torch.sigmoid(x * self.weight)
        comb = torch.tanh(x * self.weight)
        return post, comb, (post.unsqueeze(-1) * x).sum(2)

"""
STREAMS = """
post, comb, read = self.connection(x)
a, _ = self.attention(self.norm1(read), mask)
x = {}
post, comb, read = self.other(x)
f = self.mlp(self.norm2(read))
return post.unsqueeze(-1) * f.unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), x)
"""


def plan_of_streams(total: str) -> ModulePlan:
    init = "self.connection = Connection()\nself.other = Connection()\nself.table = nn.Parameter(0)"
    return plan_module(facts_of(ATTENTION, MLP, CONNECTION, layer(STREAMS.format(total), init), STACK))


@pytest.mark.parametrize(
    "total",
    [
        "post.unsqueeze(-1) * a.unsqueeze(-2) + torch.matmul(comb.transpose(-1, -2), x)",
        "comb @ x + a.unsqueeze(-2) * post.unsqueeze(-1)",
    ],
)
def test_what_is_spread_over_several_streams_goes_through_adapters_before(total: str) -> None:
    plan = plan_of_streams(total)
    assert [(site.role, site.branch.code, site.residual) for site in sites(plan)] == [
        (Role.ATTENTION, "a", None),
        (Role.OUTPUT, "f", None),
    ]
    assert {role.joins for role in plan.layers[0].bottlenecks} == {Joining.STREAMS}
    assert plan.entries[0].form is StreamForm.SEVERAL


@pytest.mark.parametrize(
    "total",
    [
        pytest.param("post * a + torch.matmul(self.table, x)", id="a matrix of another origin"),
        pytest.param("self.table * a + torch.matmul(comb, x)", id="a weight of another origin"),
        pytest.param("post * a + torch.matmul(comb, states)", id="other streams than the connection read"),
        pytest.param("post * read + torch.matmul(comb, x)", id="no sublayer between"),
        pytest.param("post * self.attention(states)[0] + torch.matmul(comb, x)", id="a sublayer that reads others"),
        pytest.param("post * a - torch.matmul(comb, x)", id="a difference"),
    ],
)
def test_a_sum_that_only_looks_like_a_mix_of_streams_is_left_alone(total: str) -> None:
    plan = plan_of_streams(total)
    assert [site.role for site in sites(plan)] == [Role.OUTPUT]


HANDING_BACK = """
class Connection(nn.Module):
    def __init__(self, spreads=True):
        super().__init__()
        self.inject = nn.Linear(32, 4) if spreads else None

    def forward(self, x):
        read = x.unflatten(-1, (4, 8)).mean(dim=-2)
        if self.inject is None:
            return read
        return read, x, torch.sigmoid(self.inject(x))

"""


def test_streams_that_the_connection_gives_back_go_on_where_its_last_one_gives_the_mix_alone() -> None:
    """What is taken out of such a call has no known origin; it is no piece of what the other results are pieces of."""
    forward = """
    read, kept, post = self.connection(x)
    a, _ = self.attention(self.norm1(read), mask)
    x = kept + (a.unsqueeze(-2) * post.unsqueeze(-1)).flatten(-2)
    read, kept, post = self.other(x)
    f = self.mlp(self.norm2(read))
    return kept + (f.unsqueeze(-2) * post.unsqueeze(-1)).flatten(-2)
    """
    init = "self.connection = Connection()\nself.other = Connection()"
    plan = plan_module(facts_of(ATTENTION, MLP, HANDING_BACK, layer(forward, init), STACK))
    assert [(site.role, site.branch.code, site.residual) for site in sites(plan)] == [
        (Role.ATTENTION, "a", None),
        (Role.OUTPUT, "f", None),
    ]
    assert not plan.entries[0].gaps
