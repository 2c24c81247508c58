"""Which additions are residual sites, and which only look like it."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Expression, MLPRoles, Placement, ResidualSite, Role
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import ATTENTION, MLP, STACK, facts_of, layer, plan_of_layer


def code_of(expression: Expression | None) -> str:
    """The text of a piece of upstream's code; "" where there is none."""
    return expression.code if expression else ""


def sites(plan: ModulePlan) -> list[ResidualSite]:
    return [site for entry in plan.classes for site in entry.residual_sites]


ATTEND = "x = x + self.attention(self.norm1(x), mask)[0]"


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("x = x + self.positions(states)", id="a position embedding is no earlier value of the stream"),
        pytest.param("x = x + self.bias", id="a bias is a parameter and came out of no submodule"),
        pytest.param("x = x + 1.0", id="a number is added"),
        pytest.param("x = x + states", id="two arguments of the layer are added"),
        pytest.param(
            "x = self.shortcut(x) + self.mlp(self.norm2(x))", id="a projected shortcut is not the stream itself"
        ),
        pytest.param("x = self.mlp(self.norm2(x)) - x", id="a difference is no addition"),
        pytest.param("aux = x + self.mlp(self.norm2(x))", id="the sum does not go on along the stream"),
        pytest.param("x = x + torch.tanh(x)", id="what is added came out of a function, not out of a submodule"),
    ],
)
def test_an_addition_that_only_looks_like_a_residual_is_left_alone(statement: str) -> None:
    init = "self.positions = nn.Embedding(4, 8)\nself.bias = nn.Parameter(torch.zeros(8))\nself.shortcut = nn.Linear(8, 8)"
    plan = plan_of_layer(f"{ATTEND}\n{statement}\nreturn x", init)
    assert [site.role for site in sites(plan)] in ([Role.ATTENTION], [])
    assert all(site.role is not Role.OUTPUT for site in sites(plan))


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("y = self.mlp(self.norm2(x))\nx = x + y", id="pre-norm"),
        pytest.param("r = x\nx = self.mlp(self.norm2(x))\nx += r", id="added in place"),
        pytest.param("r = x\nx = r + self.dropout(self.mlp(self.norm2(r)))", id="with dropout on the branch"),
        pytest.param("x = x + self.mlp(self.norm2(x)) * self.scale", id="with a scaled branch"),
        pytest.param("x = x * self.scale + self.mlp(x)", id="with a scaled residual"),
        pytest.param("y = self.norm1(self.mlp(self.norm2(x)))\nx = x + y", id="with a norm after the sublayer too"),
        pytest.param("r = x.float()\nx = (r + self.mlp(self.norm2(x))).to(x.dtype)", id="with a residual in float32"),
        pytest.param(
            "x = x + self.mlp(self.norm2(x))\nif x.dtype == torch.float16:\n    x = torch.clamp(x, -9, 9)",
            id="with clamping after it",
        ),
    ],
)
def test_a_residual_addition_is_a_site_for_the_output(statement: str) -> None:
    plan = plan_of_layer(f"{ATTEND}\n{statement}\nreturn x", "self.scale = 0.5")
    assert [(site.role, site.host) for site in sites(plan)] == [
        (Role.ATTENTION, "attention_adapters"),
        (Role.OUTPUT, "output_adapters"),
    ]
    assert all(site.placement is Placement.ADDITION for site in sites(plan))


IN_PART = "if states is None:\n    x = x + self.mlp(self.norm2(x))\nelse:\n    {}"
SAID = "Here something is added to some positions of the stream only."
ADDED = "x[mask] += self.second(self.norm2(x[mask]))"


@pytest.mark.parametrize(
    ("lines", "is_added"),
    [
        pytest.param(ADDED, True, id="in place"),
        pytest.param("x[mask] = x[mask] + self.second(self.norm2(x[mask]))", True, id="written out"),
        pytest.param("y = self.second(x[mask])\n    x[mask] += y.to(x.device)", True, id="cast"),
        pytest.param("y = self.second(x[~mask])\n    x[mask] += 1\n    x[~mask] += y", True, id="others before"),
        pytest.param("x[1:] += self.second(x[1:])", True, id="a slice"),
        pytest.param("x[mask] = 0.0", False, id="no: padded positions become zero"),
        pytest.param("x[mask] += states", False, id="no: another argument is added, which did no work"),
        pytest.param("y = x.clone()\n    y[mask] += self.second(y[mask])", False, id="no: of what is thrown away"),
    ],
)
def test_what_is_added_to_some_positions_only_has_no_host_and_says_so(lines: str, is_added: bool) -> None:
    """The stream goes on through it, and what is added comes out of a feed-forward block."""
    text = f"{ATTEND}\n{IN_PART.format(lines)}\nreturn x"
    plan = plan_of_layer(text, "self.second = Mlp(8)")
    assert [site.role for site in sites(plan)] == [Role.ATTENTION, Role.OUTPUT]
    assert (SAID in [found.message for found in plan.diagnostics]) is is_added
    assert ("second.up" in plan.layers[0].mlp.first) is is_added
    # It gets the positions of all rows in one, which the block for all positions does not.
    assert plan.layers[0].selected == (("second.up", "second.down") if is_added else ())


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("x[mask] += self.second(x[0].clone())", id="one position is read, and others are added to"),
        pytest.param("x[1:] += self.second(x[:1])", id="the slice in front is read"),
        pytest.param("x[mask] += self.second(x[~mask])", id="the other positions are read"),
        pytest.param("x[mask] += self.second(states[mask])", id="another tensor is read"),
        pytest.param("y = x[mask]\n    mask = ~mask\n    x[mask] += self.second(y)", id="the name means others now"),
    ],
)
def test_what_is_added_to_other_positions_than_it_was_made_of_is_no_feed_forward_block(lines: str) -> None:
    plan = plan_of_layer(f"{ATTEND}\n{IN_PART.format(lines)}\nreturn x", "self.second = Mlp(8)")
    assert plan.layers[0].mlp.first == ("mlp.up",) and not plan.layers[0].selected
    assert SAID in [found.message for found in plan.diagnostics]


LOST = f"{ATTEND}\ny = {{}}\nreturn torch.mul(x - y, y).repeat(1, 1) + x"
BESIDE = "self.second = nn.Linear(8, 8)\nself.third = nn.Linear(8, 8)"


def test_the_feed_forward_block_is_found_where_the_stream_is_not_followed_up_to_it() -> None:
    plan = plan_of_layer(LOST.format("x + self.mlp(self.norm2(x))"))
    assert [site.role for site in sites(plan)] == [Role.ATTENTION]
    assert (plan.layers[0].mlp.first, plan.layers[0].mlp.last) == (("mlp.up",), ("mlp.down",))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x + self.third(self.second(x))", id="no activation between"),
        pytest.param("x + self.second(torch.tanh(x))", id="one projection"),
        pytest.param("x * self.mlp(x)", id="nothing is added"),
        pytest.param("states + self.mlp(states)", id="beside the attention"),
        pytest.param("x + self.attention(torch.tanh(self.second(x)))[0]", id="an attention"),
    ],
)
def test_what_is_no_feed_forward_block_is_not_found_off_the_stream(value: str) -> None:
    plan = plan_of_layer(LOST.format(value), BESIDE)
    assert plan.layers[0].mlp == MLPRoles()


def test_what_is_attended_to_at_some_positions_is_no_feed_forward_block() -> None:
    plan = plan_of_layer("x[mask] += self.attention(x[mask])[0]\nreturn x + self.mlp(self.norm2(x))")
    assert plan.layers[0].mlp.first == ("mlp.up",)
    assert SAID in [found.message for found in plan.diagnostics]


def test_a_norm_around_the_sum_belongs_to_the_site() -> None:
    plan = plan_of_layer("x = self.norm1(x + self.attention(x, mask)[0])\nreturn self.norm2(x + self.mlp(x))")
    assert [site.placement for site in sites(plan)] == [Placement.NORM_OF_ADDITION] * 2
    assert [site.norm.code for site in sites(plan) if site.norm] == ["self.norm1", "self.norm2"]


HAND_WRITTEN = """
class Written(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        {}
"""


def plan_with_norm(*lines: str) -> ModulePlan:
    text = "x = self.written(x + self.attention(x, mask)[0])\nreturn self.written2(x + self.mlp(x))"
    init = "self.written = Written(8)\nself.written2 = Written(8)"
    norm = HAND_WRITTEN.format("\n        ".join(lines))
    return plan_module(facts_of(ATTENTION, MLP, norm, layer(text, init), STACK))


def test_a_norm_that_upstream_writes_out_belongs_to_the_site() -> None:
    plan = plan_with_norm(
        "mean = x.mean(-1, keepdim=True)",
        "variance = (x - mean).pow(2).mean(-1, keepdim=True)",
        "x = (x - mean) / torch.sqrt(variance + 1e-7)",
        "return self.weight * x + self.bias",
    )
    assert [site.placement for site in sites(plan)] == [Placement.NORM_OF_ADDITION] * 2
    assert [site.norm.code for site in sites(plan) if site.norm] == ["self.written", "self.written2"]


def test_a_scale_with_a_bias_keeps_the_stream() -> None:
    found = [(site.role, site.placement) for site in sites(plan_with_norm("return x * self.weight + self.bias"))]
    assert found == [(Role.ATTENTION, Placement.ADDITION), (Role.OUTPUT, Placement.ADDITION)]


def test_a_module_that_divides_by_a_root_and_takes_no_mean_is_no_norm() -> None:
    plan = plan_with_norm("x = x / torch.sqrt(self.weight)", "return x + torch.tanh(self.bias)")
    assert all(site.norm is None for site in sites(plan))


def test_a_norm_in_the_next_statement_belongs_to_the_site() -> None:
    plan = plan_of_layer(f"{ATTEND}\nx = self.norm1(x)\nx = x + self.mlp(x)\nx = self.norm2(x)\nreturn x")
    assert [site.placement for site in sites(plan)] == [Placement.NORM_IN_NEXT_STATEMENT] * 2
    assert all(site.dropped is not None for site in sites(plan))


@pytest.mark.parametrize(
    "after",
    [
        pytest.param("y = self.norm2(x)\nx = x + self.mlp(y)", id="the sum itself is used later as well"),
        pytest.param("if mask is None:\n    x = self.norm2(x)\nx = x + self.mlp(x)", id="the norm is conditional"),
        pytest.param("z = 1\nx = self.norm2(x)\nx = x + self.mlp(x)", id="another statement stands between"),
    ],
)
def test_a_norm_that_is_not_the_sole_next_step_stays_outside_the_site(after: str) -> None:
    plan = plan_of_layer(f"{ATTEND}\n{after}\nreturn x")
    assert sites(plan)[0].placement is Placement.ADDITION


WIDER = """
n = self.norm1(x)
if self.wider:
    {}
x = x + self.attention(n, mask)[0]
return x + self.mlp(self.norm2(x))
"""
WIDTHS = "self.wider = config.wider\nself.proj = nn.Linear(8, 16)\nself.other = nn.Conv1d(8, 16, 1)"


@pytest.mark.parametrize(
    ("shortcut", "count"),
    [
        pytest.param("x = self.proj(n)", 2, id="a projection of what the sublayer reads"),
        pytest.param("x = self.proj(n).view(2, 3, -1, 16).max(dim=1).values", 2, id="pooled"),
        pytest.param(
            "x = F.max_pool2d(self.proj(n).permute(0, 2, 1), 2).permute(0, 2, 1)", 2, id="pooled as an image"
        ),
        pytest.param("x = self.proj(states)", 1, id="no: of something else"),
        pytest.param("x = self.other(n)", 1, id="no: a convolution"),
        pytest.param("x = torch.tanh(self.proj(n))", 1, id="no: with another step behind it"),
    ],
)
def test_where_a_layer_gets_wider_a_projection_takes_the_place_of_the_residual(shortcut: str, count: int) -> None:
    assert len(sites(plan_of_layer(WIDER.format(shortcut), WIDTHS))) == count


PARALLEL = "n = self.norm1(x)\na = self.attention(n, mask)[0]\nf = self.mlp(n)"


@pytest.mark.parametrize("added", ["a + f + x", "f + a + x", "x + (a + f)", "x + (f + a)"])
def test_attention_and_feed_forward_in_one_sum_are_one_site_with_two_hosts(added: str) -> None:
    plan = plan_of_layer(f"{PARALLEL}\nreturn {added}")
    (site,) = sites(plan)
    assert site.placement is Placement.PARALLEL_SUM and site.beside is not None
    assert (site.beside.role, site.beside.branch.code, site.beside.host) == (
        Role.ATTENTION,
        "a",
        "attention_adapters",
    )
    assert (site.role, site.branch.code, code_of(site.residual)) == (Role.OUTPUT, "f", "x")
    assert [(role.host, role.location) for role in plan.layers[0].bottlenecks] == [
        ("attention_adapters", Role.ATTENTION),
        ("output_adapters", Role.OUTPUT),
    ]


SET = "self.flag = config.flag\nself.other = config.other"
REST = "return x + self.mlp(self.norm2(x))"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        pytest.param(f"if self.flag:\n    {ATTEND}\n{REST}", (("flag",), ()), id="where a flag is set"),
        pytest.param(f"if not self.flag:\n    {ATTEND}\n{REST}", ((), ("flag",)), id="where it is not"),
        pytest.param(
            f"if self.flag:\n    x = self.attention(x)[0]\nelse:\n    {ATTEND}\n{REST}",
            ((), ("flag",)),
            id="on the other way",
        ),
        pytest.param(
            f"if self.flag:\n    if self.other:\n        {ATTEND}\n    else:\n        {ATTEND}\n{REST}",
            (("flag",), ()),
            id="what all sites of a host stand under",
        ),
        pytest.param(f"if self.flag:\n    {ATTEND}\nelse:\n    {ATTEND}\n{REST}", ((), ()), id="on both ways"),
        pytest.param(f"if states is not None:\n    {ATTEND}\n{REST}", ((), ()), id="no: what a call is given"),
        pytest.param(f"if self.flag and mask is None:\n    {ATTEND}\n{REST}", ((), ()), id="no: one condition of two"),
        pytest.param(f"if self.training:\n    {ATTEND}\n{REST}", ((), ()), id="no: what no constructor sets"),
        pytest.param(
            f"self.flag = mask is None\nif self.flag:\n    {ATTEND}\n{REST}", ((), ()), id="no: what a forward sets"
        ),
    ],
)
def test_a_place_that_a_layer_reaches_by_a_flag_is_in_layers_with_that_flag(
    text: str, flags: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    roles = {role.host: role for role in plan_of_layer(text, SET).layers[0].bottlenecks}
    attending = roles["attention_adapters"]
    assert (attending.where, attending.unless) == flags
    assert (roles["output_adapters"].where, roles["output_adapters"].unless) == ((), ())


def test_a_flag_that_a_model_sets_in_its_layers_later_is_none() -> None:
    text = layer(f"if self.flag:\n    {ATTEND}\n{REST}", SET)
    switching = STACK.replace(
        "            states = layer", "            layer.flag = True\n            states = layer"
    )
    plan = plan_module(facts_of(ATTENTION, MLP, text, switching))
    assert [role.where for role in plan.layers[0].bottlenecks] == [(), ()]


def test_a_mixer_beside_the_attention_belongs_to_the_same_sublayer() -> None:
    init = "self.mixer = nn.Conv1d(8, 8, 3)"
    text = "n = self.norm1(x)\nh = self.mixer(n) + self.attention(n, mask)[0]\nx = x + h\nreturn x + self.mlp(x)"
    found = [(site.role, site.branch.code, code_of(site.residual)) for site in sites(plan_of_layer(text, init))]
    assert found == [(Role.ATTENTION, "h", "x"), (Role.OUTPUT, "self.mlp(x)", "x")]


def test_a_sum_that_starts_with_the_stream_gives_one_site_within_the_other() -> None:
    plan = plan_of_layer("n = self.norm1(x)\na = self.attention(n, mask)[0]\nf = self.mlp(n)\nreturn x + a + f")
    found = {site.role: (site.branch.code, code_of(site.residual)) for site in sites(plan)}
    assert found == {Role.ATTENTION: ("a", "x"), Role.OUTPUT: ("f", "x + a")}


JOINED = """
joined = torch.cat([x, states], dim=1)
a = self.attention(self.norm1(joined), mask)[0]
x = {}
return x + self.mlp(self.norm2(x))
"""


def test_streams_that_go_through_a_sublayer_together_are_its_residual() -> None:
    found = [(site.role, code_of(site.residual)) for site in sites(plan_of_layer(JOINED.format("joined + a")))]
    assert found == [(Role.ATTENTION, "joined"), (Role.OUTPUT, "x")]


def test_a_stream_that_the_sublayer_never_read_is_no_part_of_a_residual() -> None:
    text = JOINED.format("torch.cat([x, self.bias], dim=1) + a")
    found = [site.role for site in sites(plan_of_layer(text, "self.bias = nn.Parameter(torch.zeros(8))"))]
    assert Role.ATTENTION not in found


@pytest.mark.parametrize(
    "branch",
    [
        pytest.param("self.mlp(n) + self.second(n)", id="two modules"),
        pytest.param("(self.mlp(n) + self.second(n)) * 0.5", id="scaled"),
        pytest.param("self.mlp(n) + self.second(n) if states is None else self.mlp(n)", id="one or both"),
    ],
)
def test_a_branch_may_be_the_sum_of_what_several_modules_gave(branch: str) -> None:
    text = f"{ATTEND}\nn = self.norm2(x)\nf = {branch}\nreturn x + f"
    found = [(site.role, site.branch.code) for site in sites(plan_of_layer(text, "self.second = Mlp(config)"))]
    assert found[1:] == [(Role.OUTPUT, "f")]


ENSEMBLE = """
a = self.attention(self.norm1(x), mask)[0]
if states is None:
    one, two = a.split(a.shape[1] // 2, dim=1)
    two = {}
    a = torch.cat([one, two], dim=1)
x = x + a
return x + self.mlp(self.norm2(x))
"""


@pytest.mark.parametrize(
    ("second", "count"),
    [
        pytest.param("two.mean(dim=0, keepdim=True).expand_as(two).reshape(*one.shape)", 2, id="of the same branch"),
        pytest.param("x", 1, id="no: with the stream"),
        pytest.param("self.mlp(two)", 1, id="no: through another module"),
        pytest.param("self.bias", 1, id="no: with a parameter"),
        pytest.param("two + x", 1, id="no: with a sum in it"),
    ],
)
def test_a_branch_may_be_put_together_again_from_its_parts(second: str, count: int) -> None:
    plan = plan_of_layer(ENSEMBLE.format(second), "self.bias = nn.Parameter(torch.zeros(8))")
    assert len(sites(plan)) == count


def test_a_sum_with_a_parameter_did_not_come_out_of_submodules() -> None:
    text = f"{ATTEND}\nreturn x + (self.mlp(self.norm2(x)) + self.bias)"
    plan = plan_of_layer(text, "self.bias = nn.Parameter(torch.zeros(8))")
    assert [site.role for site in sites(plan)] == [Role.ATTENTION]


def test_branches_of_which_only_one_runs_share_their_adapters() -> None:
    text = """
    a = self.attention(self.norm1(x), mask)[0]
    if mask is None:
        x = a + self.mlp(self.norm2(x)) + x
    else:
        a = a + x
        x = self.mlp(self.norm2(a)) + a
    return x
    """
    assert {site.host for site in sites(plan_of_layer(text))} == {"attention_adapters", "output_adapters"}


def test_a_second_output_of_one_layer_gets_a_host_of_its_own() -> None:
    text = f"x = x + self.mlp(self.norm1(x))\n{ATTEND}\nx = x + self.mlp(self.norm2(x))\nreturn x"
    hosts = [site.host for site in sites(plan_of_layer(text))]
    assert hosts == ["output_adapters", "attention_adapters", "output_adapters_1"]


def test_alternatives_count_as_one_host_for_the_next_output() -> None:
    text = f"""
    if self.training:
        x = x + self.mlp(self.norm1(x))
    else:
        x = self.norm1(x + self.mlp(x))
    {ATTEND}
    x = x + self.mlp(self.norm2(x))
    return x
    """
    hosts = [site.host for site in sites(plan_of_layer(text))]
    assert hosts == ["output_adapters", "output_adapters", "attention_adapters", "output_adapters_1"]


OWN = "self.own = Mlp(config) if config.own else None"


def test_what_only_some_configs_add_behind_the_output_gets_no_adapter() -> None:
    text = f"{ATTEND}\nx = x + self.mlp(self.norm2(x))\nif self.own is not None:\n    x = x + self.own(x)\nreturn x"
    plan = plan_of_layer(text, OWN)
    assert [(site.role, site.branch.code) for site in sites(plan)] == [
        (Role.ATTENTION, "self.attention(self.norm1(x), mask)[0]"),
        (Role.OUTPUT, "self.mlp(self.norm2(x))"),
    ]
    assert "P233" in {found.code for found in plan.diagnostics}
    (entry,) = plan.entries
    assert (entry.plan.mlp.first, entry.plan.mlp.last) == (("mlp.up",), ("mlp.down",))  # nor one of LoRA


def test_an_optional_feed_forward_block_that_is_the_only_one_is_the_output() -> None:
    text = f"{ATTEND}\nif self.own is not None:\n    x = x + self.own(x)\nreturn x"
    assert [site.role for site in sites(plan_of_layer(text, OWN))] == [Role.ATTENTION, Role.OUTPUT]


def test_of_two_feed_forward_blocks_one_of_which_runs_both_are_the_output() -> None:
    text = f"{ATTEND}\nif self.own is not None:\n    x = x + self.own(x)\nelse:\n    x = x + self.mlp(x)\nreturn x"
    assert [site.host for site in sites(plan_of_layer(text, OWN))] == [
        "attention_adapters",
        "output_adapters",
        "output_adapters",
    ]


def test_a_shortcut_around_the_whole_layer_is_no_attention() -> None:
    text = """
    r = x
    x = self.norm1(x + self.attention(x, mask)[0])
    x = self.norm2(x + self.mlp(x))
    if mask is None:
        return x
    return r + self.dropout(self.mlp(x))
    """
    plan = plan_of_layer(text)
    found = {code_of(site.residual): site.role for site in sites(plan)}
    assert found["r"] is Role.OUTPUT
    assert plan.layers[0].mlp.first == ("mlp.up",)


HYBRID = """
class Mixer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.into = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 3)
        self.out = {out}

    def forward(self, x):
        return self.out(self.conv(self.into(x).transpose(1, 2)).transpose(1, 2))


class Mixing(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mixer = Mixer(config)
        self.mlp = Mlp(config)

    def forward(self, x, mask=None):
        x = x + self.mixer(x)
        return x + self.mlp(x)


class Both(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) if config.full[i] else Mixing(config) for i in range(2)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""


@pytest.mark.parametrize(
    ("out", "roles"),
    [
        pytest.param("nn.Linear(8, 8)", [Role.ATTENTION, Role.OUTPUT], id="a mixer takes the place of the attention"),
        pytest.param(
            "nn.Conv1d(8, 8, 1)", [Role.OUTPUT], id="what ends with a convolution may have channels in front"
        ),
    ],
)
def test_the_layers_beside_those_with_attention(out: str, roles: list[Role]) -> None:
    text = layer(f"{ATTEND}\nreturn x + self.mlp(self.norm2(x))")
    plan = plan_module(facts_of(ATTENTION, MLP, text, HYBRID.replace("{out}", out)))
    mixing = next(entry.plan for entry in plan.entries if entry.plan.class_name == "Mixing")
    assert [role.location for role in mixing.bottlenecks] == roles


GATE = """
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(8))

    def forward(self, residual, x):
        return {out}
"""


@pytest.mark.parametrize(
    ("out", "host"),
    [
        pytest.param("self.gate * x + torch.sqrt(1 - self.gate) * residual", ".residual_adapters", id="both scaled"),
        pytest.param("self.gate * x + residual", "", id="the class is the host where it is handed the stream itself"),
    ],
)
def test_a_gate_of_one_class_behind_both_sublayers_is_a_site_of_both(out: str, host: str) -> None:
    text = layer(
        "x = self.gate1(x, self.attention(self.norm1(x), mask)[0])\nreturn self.gate2(x, self.mlp(self.norm2(x)))",
        "self.gate1 = Gate()\nself.gate2 = Gate()",
    )
    plan = plan_module(facts_of(ATTENTION, MLP, GATE.replace("{out}", out), text, STACK))
    found = {role for entry in plan.entries for role in entry.plan.bottlenecks if "gate" in role.host}
    assert {(role.host, role.location) for role in found} == {
        (f"gate1{host}", Role.ATTENTION),
        (f"gate2{host}", Role.OUTPUT),
    }


NARROW = """
n = {start}
a = self.attention(x, mask)[0]
n = self.norm1(a + n)
f = self.norm2(self.mlp(n) + n)
return self.norm1(self.out({read}) + x)
"""
NARROWING = "self.narrow = config.narrow\nself.into = nn.Linear(8, 8)\nself.out = nn.Linear(8, 8)\nself.table = nn.Parameter(0)"
BESIDE_THE_STREAM = "self.norm2(self.into(x)) if self.narrow else x"


def narrow_roles(start: str, read: str) -> list[tuple[Role | None, str]]:
    text = layer(NARROW.format(start=start, read=read), NARROWING)
    plan = plan_module(facts_of(ATTENTION, MLP, text, STACK))
    return [(site.role, site.branch.code) for site in sites(plan)]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(BESIDE_THE_STREAM, id="projected and normalised beside the stream"),
        pytest.param(f"(({BESIDE_THE_STREAM.split(' if')[0]},) * 2 if self.narrow else [x] * 2)[1]", id="in tuples"),
    ],
)
def test_the_stream_within_a_layer_that_is_narrower_there_is_followed(start: str) -> None:
    assert narrow_roles(start, "f") == [
        (Role.ATTENTION, "a"),
        (Role.OUTPUT, "self.mlp(n)"),
        (Role.OUTPUT, "self.out(f)"),
    ]


@pytest.mark.parametrize(
    ("start", "read"),
    [
        pytest.param(BESIDE_THE_STREAM, "self.mlp(n)", id="a sublayer that is not added"),
        pytest.param(BESIDE_THE_STREAM, "self.table + n", id="a sum with a parameter"),
        pytest.param(BESIDE_THE_STREAM, "f * self.table", id="a product behind the sum"),
    ],
)
def test_what_a_projection_reads_besides_a_stream_of_its_own_is_not_followed(start: str, read: str) -> None:
    assert (Role.OUTPUT, "self.mlp(n)") not in narrow_roles(start, read)


def test_a_projection_that_takes_no_place_of_the_stream_is_no_residual() -> None:
    assert (Role.ATTENTION, "a") not in narrow_roles("self.norm2(self.into(x))", "f")
