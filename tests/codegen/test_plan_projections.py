"""Roles of the linear modules around cores and in feed-forward blocks."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionKind, Level, OutputOrder
from adapter_codegen.plan.module import ModulePlan, plan_module
from plan_snippets import ATTENTION, STACK, facts_of, layer, plan_of_attention, plan_of_layer

TEXT = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"
INTERFACE = 'attend = ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)'


BESIDE = ATTENTION.replace("self.v = ", "self.w = nn.Linear(8, 4)\n        self.v = ")


@pytest.mark.parametrize(
    ("value", "beside"),
    [
        pytest.param("torch.cat([self.v(states), self.w(states)], dim=-1)", ("attention.w",), id="side by side"),
        pytest.param("torch.cat([self.v(states), self.w(states)], dim=1)", (), id="no: behind each other, as tokens"),
        pytest.param("torch.cat([self.v(states), self.v(states)], dim=-1)", (), id="no: of one projection"),
        pytest.param("self.v(states) + self.w(states)", (), id="no: added"),
        pytest.param(
            "torch.cat([self.v(states), self.v(states) + self.w(states)], dim=-1)", (), id="no: one is in both parts"
        ),
        pytest.param("(self.v(states) if self.wide else self.w(states))", (), id="no: one or the other"),
    ],
)
def test_values_may_come_out_of_several_projections_side_by_side(value: str, beside: tuple[str, ...]) -> None:
    text = BESIDE.replace("value = self.v(states)", f"value = {value}")
    (roles,) = plan_of_layer(TEXT, "", text).layers[0].attentions
    assert (roles.value, roles.value_beside) == ("attention.v", beside)


def test_queries_keys_and_values_are_told_apart_by_data_flow_and_not_by_name() -> None:
    swapped = ATTENTION.replace("query = self.q(", "query = self.o(").replace("return self.o(", "return self.q(")
    (roles,) = plan_of_layer(TEXT, "", swapped).layers[0].attentions
    assert (roles.query, roles.output) == ("attention.o", "attention.q")
    assert (roles.key, roles.value, roles.head_dim) == ("attention.k", "attention.v", "head_dim")


@pytest.mark.parametrize(
    ("key", "query"),
    [
        pytest.param("mixed.mean(dim=-1, keepdim=True)", "", id="where that of the keys does not show"),
        pytest.param("self.k(states).view(shape)", "attention.q", id="and keys have their own"),
    ],
)
def test_of_several_projections_in_one_query_none_is_its_own(key: str, query: str) -> None:
    lines = (
        "shape = (*states.shape[:-1], -1, self.head_dim)",
        "mixed = (self.q(states).view(shape) + self.o(states).view(shape)) * 0.5",
        f"query, key = mixed.transpose(1, 2), {key}.transpose(1, 2)",
        "value = self.v(states).view(shape).transpose(1, 2)",
        INTERFACE,
        "out, weights = attend(self, query, key, value, mask, scaling=self.scaling)",
        "return out, weights",
    )
    (roles,) = plan_of_attention(*lines).layers[0].attentions
    assert (roles.query, roles.value) == (query, "attention.v")


def test_one_projection_that_gives_all_three_is_fused() -> None:
    lines = (
        "qkv = self.q(states).view(*states.shape[:-1], 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)",
        "query, key, value = qkv.unbind(0)",
        INTERFACE,
        "out, weights = attend(self, query, key, value, mask, scaling=self.scaling)",
        "return self.o(out), weights",
    )
    (roles,) = plan_of_attention(*lines).layers[0].attentions
    assert (roles.fused, roles.query, roles.output) == ("attention.q", "", "attention.o")


def test_keys_from_another_argument_of_the_layer_make_it_cross_attention() -> None:
    cross = ATTENTION.replace("mask=None, **kwargs", "other, mask=None").replace("self.k(states)", "self.k(other)")
    cross = cross.replace("self.v(states)", "self.v(other)").replace(", **kwargs", "")
    text = "x = x + self.attention(self.norm1(x), states, mask)[0]\nreturn x + self.mlp(self.norm2(x))"
    plan = plan_of_layer(text, "", cross).layers[0]
    assert plan.attentions[0].kind is AttentionKind.CROSS
    assert [role.location.value for role in plan.bottlenecks] == ["cross_attention", "output"]


def test_the_activated_factor_of_a_gated_block_is_the_gate() -> None:
    mlp = """
class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.a = nn.Linear(8, 32)
        self.b = nn.Linear(8, 32)
        self.c = nn.Linear(32, 8)

    def forward(self, x):
        return self.c(self.b(x) * F.silu(self.a(x)))
"""
    roles = plan_module(facts_of(ATTENTION, mlp, layer(TEXT), STACK)).layers[0].mlp
    assert (roles.first, roles.gate, roles.last) == (("mlp.b",), ("mlp.a",), ("mlp.c",))


def test_a_fused_gate_and_up_projection_is_the_first() -> None:
    mlp = """
class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.a = nn.Linear(8, 64)
        self.c = nn.Linear(32, 8)

    def forward(self, x):
        up, gate = self.a(x).chunk(2, dim=-1)
        return self.c(up * F.silu(gate))
"""
    roles = plan_module(facts_of(ATTENTION, mlp, layer(TEXT), STACK)).layers[0].mlp
    assert (roles.first, roles.gate, roles.last) == (("mlp.a",), (), ("mlp.c",))


def test_a_router_is_no_part_of_the_feed_forward_projections() -> None:
    mlp = """
class Mlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.up = nn.Linear(8, 32)
        self.down = nn.Linear(32, 8)

    def forward(self, x):
        weight = F.softmax(self.router(x), dim=-1)
        return self.down(F.gelu(self.up(x))) * weight
"""
    roles = plan_module(facts_of(ATTENTION, mlp, layer(TEXT), STACK)).layers[0].mlp
    assert (roles.first, roles.last) == (("mlp.up",), ("mlp.down",))


LATENT = (
    "query = (self.q(states) if self.rank is None else self.b(self.a(states))).view(*states.shape[:-1], -1, self.width)",
    "both = self.kv(states).view(*states.shape[:-1], -1, 2 * self.width).transpose(1, 2)",
    "key, value = both.chunk(2, dim=-1)",
    INTERFACE,
    "out, weights = attend(self, query.transpose(1, 2), key, value, mask, scaling=self.scaling)",
    "return self.o(out), weights",
)
PARTS = "        self.a = nn.Linear(8, 2)\n        self.b = nn.Linear(2, 8)\n        self.kv = nn.Linear(8, 16)\n"


def latent(*lines: str) -> ModulePlan:
    """The plan of a layer with projections `a`, `b` and `kv` in its attention, whose forward has the given lines."""
    head, _, _ = ATTENTION.partition("    def forward")
    body = "\n".join(f"        {line}" for line in lines)
    attention = f"{head.rstrip()}\n{PARTS}\n    def forward(self, states, mask=None, **kwargs):\n{body}\n\n"
    return plan_of_layer(TEXT, "", attention)


def test_projections_that_are_added_up_are_no_alternatives() -> None:
    added = LATENT[0].replace(
        "(self.q(states) if self.rank is None else self.b(self.a(states)))", "(self.q(states) + self.b(mask))"
    )
    (roles,) = latent(added, *LATENT[1:]).layers[0].attentions
    assert (roles.query, roles.query_alternatives) == ("attention.q", ())


def test_queries_that_come_out_of_one_of_two_projections_name_both() -> None:
    (roles,) = latent(*LATENT).layers[0].attentions
    assert (roles.query, roles.query_alternatives) == ("attention.q", ("attention.b",))


def test_a_projection_that_gives_keys_and_values_is_told_and_holds_no_prefix() -> None:
    plan = latent(*LATENT[:2], "key, value, gate = both.chunk(3, dim=-1)", *LATENT[3:])
    (roles,) = plan.layers[0].attentions
    assert roles.key == roles.value == "attention.kv"
    assert {one.code: one.level for one in plan.diagnostics} == {"P222": Level.NOTE, "P211": Level.WARNING}
    assert not plan.entries[0].takes_prefix


GROUPS = (
    "both = self.kv(states).view(*states.shape[:-1], -1, self.a_width + self.b_width).transpose(1, 2)",
    "key, value = torch.split(both, [self.a_width, self.b_width], dim=-1)",
)


def test_a_projection_whose_groups_hold_keys_and_values_can_be_adapted_in_part_and_holds_a_prefix() -> None:
    """Keys are as wide as the queries; what stands beside a group's part of them does not show in a view."""
    plan = latent(LATENT[0], *GROUPS, *LATENT[3:])
    (roles,) = plan.layers[0].attentions
    assert (roles.key, roles.value) == ("attention.kv", "attention.kv")
    assert roles.orders == (OutputOrder("kv", ("a_width", "b_width"), "a_width + b_width"),)
    assert roles.head_dim == "width"
    assert not plan.diagnostics and plan.entries[0].takes_prefix


def test_a_split_of_the_groups_is_none_within_each() -> None:
    (roles,) = latent(LATENT[0], GROUPS[0], GROUPS[1].replace("dim=-1", "dim=1"), *LATENT[3:]).layers[0].attentions
    (order,) = roles.orders
    assert (order.sizes[0], order.group) == ("a_width * a_width + a_width * b_width", "")


def test_the_width_of_a_head_may_stand_in_the_config() -> None:
    text = ATTENTION.replace("-1, self.head_dim)", "-1, self.config.head_dim)")
    (roles,) = plan_of_layer(TEXT, "", text).layers[0].attentions
    assert roles.head_dim == "config.head_dim"


def test_a_width_that_is_computed_in_the_view_is_no_attribute() -> None:
    text = ATTENTION.replace("-1, self.head_dim)", "-1, self.hidden // self.heads)")
    plan = plan_of_layer(TEXT, "", text)
    assert plan.layers[0].attentions[0].head_dim == ""
    assert [one.code for one in plan.diagnostics] == ["P211"]


def heads(name: str, projected: str) -> str:
    return f"{name} = {projected}.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)"


ATTEND = (
    INTERFACE,
    "out, weights = attend(self, query, key, value, mask, scaling=self.scaling)",
    "return self.o(out), weights",
)


def test_tensors_that_are_left_out_where_they_are_none_are_followed_to_their_projections() -> None:
    lines = (
        heads("query", "self.q(states)"),
        "keys = [part for part in [self.k(states), bias] if part is not None]",
        heads("key", "torch.cat(keys, dim=1)"),
        heads("value", "self.v(states)"),
    )
    (roles,) = plan_of_attention(*lines, *ATTEND).layers[0].attentions
    assert (roles.query, roles.key, roles.value) == ("attention.q", "attention.k", "attention.v")


def test_tensors_that_a_list_makes_anew_are_not_mixed_up() -> None:
    """Each of the three comes out of one of three projections: which, the comprehension does not tell."""
    lines = (
        "both = [part for part in (self.q(states), self.k(states), self.v(states)) if part is not None]",
        "query, key, value = [part.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2) for part in both]",
    )
    (roles,) = plan_of_attention(*lines, *ATTEND).layers[0].attentions
    assert (roles.query, roles.key, roles.value, roles.fused) == ("", "", "", "")


def test_windows_of_keys_come_out_of_their_projection() -> None:
    lines = (
        heads("query", "self.q(states)"),
        heads("key", "self.k(states).unfold(1, 4, 2)"),
        heads("value", "self.v(states)"),
    )
    (roles,) = plan_of_attention(*lines, *ATTEND).layers[0].attentions
    assert roles.key == "attention.k"


PRODUCT = """
class Product(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.p = nn.Linear(8, 8)

    def forward(self, query, key, value):
        scores = torch.matmul(query, key.transpose(-1, -2))
        return {returned}

"""
WEIGHTS = "nn.functional.softmax({scores}, dim=-1)"


def with_product(returned: str, out: str) -> ModulePlan:
    lines = (
        heads("query", "self.q(states)"),
        heads("key", "self.k(states)"),
        heads("value", "self.v(states)"),
        f"return self.o({out}), None",
    )
    head, _, _ = ATTENTION.partition("    def forward")
    body = "\n".join(f"        {line}" for line in lines)
    attention = (
        f"{head}        self.product = Product(config)\n\n    def forward(self, states, mask=None):\n{body}\n\n"
    )
    return plan_of_layer(TEXT, "", PRODUCT.format(returned=returned) + attention)


def test_a_module_that_gives_no_more_than_the_scores_does_not_attend() -> None:
    weights = WEIGHTS.format(scores="self.product(query, key, value)")
    plan = with_product("scores", f"torch.matmul({weights}, value)")
    (roles,) = plan.layers[0].attentions
    assert (roles.core, roles.query, roles.key, roles.output) == (
        "attention",
        "attention.q",
        "attention.k",
        "attention.o",
    )
    assert plan.cores == 0  # where the scores are, there are no values to lengthen


def test_a_module_inside_that_attends_is_the_core() -> None:
    plan = with_product(f"torch.matmul({WEIGHTS.format(scores='scores')}, value)", "self.product(query, key, value)")
    (roles,) = plan.layers[0].attentions
    assert (roles.core, roles.query) == ("attention.product", "attention.q")


def test_heads_put_side_by_side_are_wider_than_the_attribute_that_cuts_each() -> None:
    lines = (
        heads("content", "self.k(states)"),
        heads("position", "self.o(states)"),
        "query, key = torch.cat([content, position], dim=-1), torch.cat([content, position], dim=-1)",
        heads("value", "self.v(states)"),
    )
    assert plan_of_attention(*lines, *ATTEND).layers[0].attentions[0].head_dim == ""


@pytest.mark.parametrize(
    "joined",
    [
        pytest.param("torch.cat([key[..., :4], key[..., 4:]], dim=-1)", id="parts of one head"),
        pytest.param("torch.cat([key, before], dim=-2)", id="positions in front"),
    ],
)
def test_a_head_that_is_put_together_again_or_gets_more_positions_is_as_wide_as_stated(joined: str) -> None:
    lines = (
        heads("query", "self.q(states)"),
        heads("key", "self.k(states)"),
        "before = key[:, :, :1]",
        f"key = {joined}",
        heads("value", "self.v(states)"),
    )
    assert plan_of_attention(*lines, *ATTEND).layers[0].attentions[0].head_dim == "head_dim"
