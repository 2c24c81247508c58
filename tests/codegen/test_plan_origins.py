"""Which arguments of a layer queries and keys come from: self- or cross-attention, and which projection is the query's."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionKind, AttentionRoles, Role
from adapter_codegen.plan.module import plan_module
from plan_snippets import ATTENTION, facts_of, plan_of_layer
from plan_snippets import MLP as FEED_FORWARD

MLP = "return x + self.mlp(self.norm2(x))"
SELF, CROSS = AttentionKind.SELF, AttentionKind.CROSS

# Attends to `other` where it is given, else to its own states: what many decoders use for both.
BOTH = (
    ATTENTION.replace("states, mask=None, **kwargs", "states, mask=None, other=None")
    .replace(", **kwargs)", ")")
    .replace(
        "        key = self.k(states)", "        read = states if other is None else other\n        key = self.k(read)"
    )
    .replace("self.v(states)", "self.v(read)")
)


def roles(text: str, attention: str = ATTENTION) -> AttentionRoles:
    (found,) = plan_of_layer(f"{text}\n{MLP}", "", attention).layers[0].attentions
    return found


def with_key(key: str, query: str = "states", parameters: str = "states, other, mask=None") -> str:
    """The attention with what its keys and values are projected from, and its queries."""
    text = ATTENTION.replace("states, mask=None, **kwargs", parameters).replace(", **kwargs)", ")")
    return text.replace("self.q(states)", f"self.q({query})").replace("self.k(states)", f"self.k({key})")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        pytest.param("x = x + self.attention(x, mask)[0]", SELF, id="nothing is given, so that it attends to itself"),
        pytest.param(
            "if states is not None:\n    x = x + self.attention(x, mask, states)[0]",
            CROSS,
            id="it runs only where there is something to attend to",
        ),
        pytest.param(
            "x = x + self.attention(x, mask, states)[0]",
            SELF,
            id="it runs as well where what may be given is None",
        ),
        pytest.param(
            'if states is None:\n    raise ValueError("states")\nx = x + self.attention(x, mask, states)[0]',
            CROSS,
            id="what may be given must be given",
        ),
        pytest.param(
            "x = x + self.attention(x, mask, kwargs_are_none(states))[0]",
            SELF,
            id="what a function makes of an optional argument is optional",
        ),
    ],
)
def test_an_attention_that_serves_for_both_is_what_its_call_makes_it(text: str, kind: AttentionKind) -> None:
    assert roles(text, BOTH).kind is kind


@pytest.mark.parametrize(
    ("key", "query", "kind"),
    [
        pytest.param("other", "states", CROSS, id="keys from another argument"),
        pytest.param("torch.cat([other, states], dim=1)", "states", SELF, id="other tokens in front of the own"),
        pytest.param("other + mask", "states + mask", CROSS, id="positions that both get are no common stream"),
        pytest.param("states + other", "states + other", SELF, id="positions from another argument"),
        pytest.param("other['full']", "states", SELF, id="an entry of what layers hand on to each other"),
        pytest.param("other[0]", "states", CROSS, id="an element of another argument, which is a tensor of it"),
        pytest.param("states", "torch.zeros(1, 2, 8)", CROSS, id="queries that come from no argument"),
    ],
)
def test_keys_that_share_no_argument_with_the_queries_make_cross_attention(
    key: str, query: str, kind: AttentionKind
) -> None:
    assert roles("x = x + self.attention(x, states, mask)[0]", with_key(key, query)).kind is kind


def test_what_another_attention_gave_is_no_part_of_the_stream() -> None:
    """After an attention to `states`, a second one to them is still an attention to another argument."""
    text = (
        "x = self.attention(x, states, mask)[0] + x\nx = self.second(x, states, mask)[0] + x\nreturn x + self.mlp(x)"
    )
    plan = plan_of_layer(text, "self.second = Attention(config)", with_key("other"))
    assert [found.kind for found in plan.layers[0].attentions] == [CROSS, CROSS]


def test_a_query_with_a_projection_of_its_own_tells_where_it_comes_from() -> None:
    """``q_attn`` of the states, or the first part of what gives the keys of the others: the first is the query's."""
    attention = BOTH.replace(
        "query = self.q(states)",
        "query = (self.q(states) if self.is_cross else self.k(states if other is None else other))",
    )
    found = roles("if states is not None:\n    x = x + self.attention(x, mask, states)[0]", attention)
    assert (found.kind, found.query, found.key) == (CROSS, "attention.q", "attention.k")


def test_positions_with_a_projection_of_their_own_are_not_the_query() -> None:
    text = ATTENTION.replace("states, mask=None, **kwargs", "states, other, mask=None").replace(", **kwargs)", ")")
    text = text.replace("self.q = ", "self.p = nn.Linear(8, 8)\n        self.q = ")
    text = text.replace("self.q(states)", "(self.p(other) + self.q(states))")
    assert roles("x = x + self.attention(x, mask, states)[0]", text).query == "attention.q"


def test_keys_are_projected_from_what_the_values_are_projected_from() -> None:
    text = with_key("other").replace("self.v(states)", "self.v(other)")
    text = text.replace("self.q = ", "self.p = nn.Linear(8, 8)\n        self.q = ")
    text = text.replace("self.k(other)", "(self.p(mask) + self.k(other))")
    assert roles("x = x + self.attention(x, states, mask)[0]", text).key == "attention.k"


def of_torch(*lines: str) -> AttentionKind:
    """The kind of an nn.MultiheadAttention that is called in a layer like this, and of the adapters behind it."""
    text = "\n".join((*lines, "x = x + out", MLP))
    plan = plan_of_layer(text, "self.inner = nn.MultiheadAttention(8, 2)").layers[0]
    (found,) = plan.attentions
    locations = {SELF: Role.ATTENTION, CROSS: Role.CROSS_ATTENTION}
    assert [role.location for role in plan.bottlenecks] == [locations[found.kind], Role.OUTPUT]
    assert (found.core, found.query, found.key) == ("inner", "", "")
    return found.kind


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        pytest.param(["out = self.inner(x, x, x)[0]"], SELF, id="to itself"),
        pytest.param(
            ["y = self.norm1(x)", "out, _ = self.inner(y + mask, y + mask, y)"], SELF, id="to itself, normed"
        ),
        pytest.param(
            ["out = self.inner(x, torch.cat([states, x]), x)[0]"], SELF, id="other tokens in front of the own"
        ),
        pytest.param(
            ["other = x if states is None else states", "out = self.inner(x, other, other)[0]"],
            SELF,
            id="to itself where nothing is given",
        ),
        pytest.param(["out = self.inner(query=x, key=states, value=x)[0]"], CROSS, id="keys from another argument"),
        pytest.param(["out = self.inner(x + mask, states + mask, states)[0]"], CROSS, id="positions are no stream"),
        pytest.param(["out = self.inner(states, x, x)[0]"], CROSS, id="queries from another argument"),
        pytest.param(["out = self.inner(x, key=states[0], value=x)[0]"], CROSS, id="an element of another argument"),
    ],
)
def test_what_the_attention_of_torch_is_given_makes_it_one_or_the_other(lines: list[str], kind: AttentionKind) -> None:
    assert of_torch(*lines) is kind


# What callers of a layer give it

TAKES_THREE = """
class Layer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.mlp = Mlp(config)

    def forward(self, query, key, value):
        x = query + self.attention(query, key, value)[0]
        return x + self.mlp(x)
"""
CALLS = """
class Stack(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.pool = nn.Linear(8, 8)
        self.layers = nn.ModuleList([Layer(config) for _ in range(2)])

    def forward(self, hidden, memory, pooled=False):
        for layer in self.layers:
            {}
        return hidden
"""


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        pytest.param(["hidden = layer(hidden, memory, memory)"], CROSS, id="another tensor"),
        pytest.param(
            ["hidden = layer(hidden, hidden if pooled else memory, hidden)"], CROSS, id="at times another one"
        ),
        pytest.param(["hidden = layer(hidden, self.pool(hidden), hidden)"], CROSS, id="what is made of the queries"),
        pytest.param(["hidden = layer(hidden, *memory)"], CROSS, id="it does not show"),
        pytest.param(
            ["hidden = layer(hidden, hidden, hidden)", "hidden = layer(hidden, memory, memory)"],
            CROSS,
            id="another tensor in one of two calls",
        ),
        pytest.param(["hidden = layer(hidden, hidden, hidden)"], SELF, id="the same under every name"),
        pytest.param(["hidden = layer(value=hidden, key=hidden, query=hidden)"], SELF, id="by name"),
        pytest.param(
            [
                "query = key = value = hidden",
                "if pooled:",
                "    query = self.pool(hidden)",
                "    key = value = hidden if self.training else query",
                "hidden = layer(query, key, value)",
            ],
            SELF,
            id="each of them pooled or not",
        ),
    ],
)
def test_a_layer_that_is_given_its_stream_under_several_names_attends_to_itself(
    call: list[str], kind: AttentionKind
) -> None:
    attention = ATTENTION.replace("states, mask=None, **kwargs", "states, keys, values, mask=None")
    attention = attention.replace(", **kwargs)", ")").replace("self.k(states)", "self.k(keys)")
    attention = attention.replace("self.v(states)", "self.v(values)")
    text = attention + FEED_FORWARD + TAKES_THREE + CALLS.format("\n            ".join(call))
    (found,) = plan_module(facts_of(text)).layers[0].attentions
    assert found.kind is kind
