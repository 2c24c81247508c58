"""Where the projection of the queries gives gates too, and where something only looks like it."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionRoles
from plan_snippets import plan_of_attention

KEYS = (
    "lead = states.shape[:-1]",
    "shape = (*lead, -1, self.head_dim)",
    "key = self.k(states).view(shape).transpose(1, 2)",
    "value = self.v(states).view(shape).transpose(1, 2)",
)
ATTEND = (
    'attend = ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)',
    "out, weights = attend(self, query, key, value, mask, scaling=self.scaling)",
    "out = out.reshape(*lead, -1)",
)
PLAIN = "query = self.q(states).view(shape).transpose(1, 2)"
HALVES = (
    "query, gate = self.q(states).view(*lead, -1, 2 * self.head_dim).chunk(2, dim=-1)\nquery = query.transpose(1, 2)"
)
OPENED = ("out = out * torch.sigmoid(gate.reshape(*lead, -1))", "return self.o(out), weights")


def roles(*lines: str) -> AttentionRoles:
    (found,) = plan_of_attention(*KEYS, *lines).layers[0].attentions
    assert found.query == "attention.q"
    return found


@pytest.mark.parametrize(
    ("cut", "parts", "sizes", "group"),
    [
        pytest.param(HALVES, "qg", ("head_dim", "head_dim"), "2 * head_dim", id="halves of each head"),
        pytest.param(
            "mixed = self.q(states).view(*lead, -1, self.own + self.gates)\n"
            "query, gate = torch.split(mixed, [self.own, self.gates], dim=-1)\nquery = query.transpose(1, 2)",
            "qg",
            ("own", "gates"),
            "gates + own",
            id="parts of two sizes",
        ),
        pytest.param(
            "gate, query = self.q(states).chunk(2, dim=-1)\nquery = query.view(shape).transpose(1, 2)",
            "gq",
            ("outputs // 2", "outputs // 2"),
            "",
            id="all gates, then all queries",
        ),
    ],
)
def test_the_order_of_queries_and_gates_is_stated(cut: str, parts: str, sizes: tuple[str, ...], group: str) -> None:
    found = roles(cut, *ATTEND, *OPENED)
    (order,) = found.gate_orders
    assert found.gate == found.query
    assert (order.parts, order.sizes, order.group) == (parts, sizes, group)


def test_gates_that_are_cut_out_in_a_way_that_is_not_followed_have_no_order() -> None:
    cut = (
        "both = kernel(self.q(states))\nquery, gate = both.chunk(2, dim=-1)\nquery = query.view(shape).transpose(1, 2)"
    )
    found = plan_of_attention(*KEYS, cut, *ATTEND, *OPENED).layers[0].attentions[0]
    assert found.gate_orders == ()


def test_queries_that_open_what_they_attend_to_as_a_whole_are_queries() -> None:
    found = roles(
        PLAIN,
        *ATTEND,
        "out = out * torch.sigmoid(query.transpose(1, 2).reshape(*lead, -1))",
        "return self.o(out), weights",
    )
    assert (found.gate, found.gate_orders) == ("", ())


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param((PLAIN, *ATTEND, "return self.o(out), weights"), id="queries alone"),
        pytest.param((PLAIN, "gate = self.k(states)", *ATTEND, *OPENED), id="gates of another projection"),
        pytest.param(
            (PLAIN, "query = torch.cat(query.chunk(2, dim=-1)[::-1], dim=-1)", *ATTEND, "return self.o(out), weights"),
            id="halves of a query that are exchanged",
        ),
        pytest.param(
            (HALVES, *ATTEND, "out = out.view(gate.shape).view(*lead, -1)", "return self.o(out), weights"),
            id="a part of which only the shape is read",
        ),
        pytest.param((HALVES, *ATTEND, "return self.o(out), gate"), id="a part that is returned beside"),
    ],
)
def test_what_does_not_meet_the_attended_values_is_no_gate(lines: tuple[str, ...]) -> None:
    found = roles(*lines)
    assert (found.gate, found.gate_orders) == ("", ())
