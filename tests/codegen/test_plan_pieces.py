"""Streams that a layer cuts into pieces, works on, and puts together again."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Role
from adapter_codegen.plan.module import ModulePlan
from plan_snippets import plan_of_layer

INIT = """
self.kind = config.kind
self.table = nn.Parameter(0)
if self.kind == "divided":
    self.over_time = Attention(config)
    self.dense = nn.Linear(8, 8)
"""
OVER_TIME = "rest = x[:, 1:, :] + self.dense(self.over_time(self.norm1(x[:, 1:, :]))[0].reshape(2, 4, 8))"
FIRST = "first = x[:, 0, :].unsqueeze(1)"
OVER_SPACE = """
out = self.dropout(self.attention(self.norm2(torch.cat((first.repeat(1, 2, 1), rest), 1)))[0])
token = torch.mean(out[:, 0, :].reshape(2, 4, out.shape[2]), 1, True)
out = out[:, 1:, :].reshape(2, 4, 8)
"""
TOGETHER = "x = torch.cat((first, rest), 1) + torch.cat((token, out), 1)"
END = "return x + self.mlp(self.norm2(x))"
USUAL = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"


def plan(*lines: str) -> ModulePlan:
    return plan_of_layer("\n".join(lines), INIT)


def branches(found: ModulePlan) -> list[tuple[str, str]]:
    (held,) = [one for one in found.classes if one.name == "Layer"]
    return [(site.host, site.branch.code) for site in held.residual_sites]


def test_each_piece_is_followed_and_what_is_put_together_is_added() -> None:
    found = plan(OVER_TIME, FIRST, OVER_SPACE, TOGETHER, END)
    assert branches(found) == [
        ("attention_adapters", OVER_TIME.partition(" + ")[2]),
        ("attention_adapters_1", "torch.cat((token, out), 1)"),
        ("output_adapters", "self.mlp(self.norm2(x))"),
    ]
    assert not found.entries[0].gaps and not found.entries[0].plan.without


@pytest.mark.parametrize(
    ("over_time", "together"),
    [
        pytest.param(OVER_TIME.replace("rest = x[:, 1:, :]", "rest = x[:, 2:, :]"), TOGETHER, id="another piece"),
        pytest.param(
            OVER_TIME.replace("rest = x[:, 1:, :]", "rest = x[:, n:, :]"), TOGETHER, id="a piece of no known size"
        ),
        pytest.param(OVER_TIME.replace("rest = x[", "rest = states["), TOGETHER, id="a piece of something else"),
        pytest.param(
            OVER_TIME, TOGETHER.replace("(token, out)", "(self.table, out)"), id="a parameter among the parts"
        ),
        pytest.param(OVER_TIME, TOGETHER.replace("(token, out)", "(first, out)"), id="the stream among the parts"),
        pytest.param(OVER_TIME, TOGETHER.replace("(token, out)", "(self.mlp(token), out)"), id="of two sublayers"),
    ],
)
def test_what_is_joined_of_something_else_leaves_a_gap(over_time: str, together: str) -> None:
    found = plan(over_time, FIRST, OVER_SPACE, together, END)
    assert found.entries[0].gaps


def test_what_is_joined_to_the_stream_and_was_not_cut_out_of_it_is_not_followed() -> None:
    found = plan("y = states + self.over_time(states)[0]", "x = torch.cat((x, y), 1)", USUAL)
    assert [host for host, _ in branches(found)] == ["attention_adapters", "output_adapters"]


DIVIDED = "\n".join(
    f"    {line}" for part in (OVER_TIME, FIRST, OVER_SPACE, TOGETHER) for line in part.strip().splitlines()
)
WHOLE = "    x = x + self.attention(self.norm1(x), mask)[0]"


@pytest.mark.parametrize(
    ("test", "sublayer"),
    [
        ('self.kind == "divided"', "dense"),
        ('self.kind in ["divided", "both"] and self.kind', "dense"),
        ("states is not None", ""),  # of a call: the modules may be there, and another call comes here
        ("self.kind == mask", ""),
        ("self.is_divided()", ""),
    ],
)
def test_a_place_under_a_comparison_is_where_the_modules_are_that_it_needs(test: str, sublayer: str) -> None:
    found = plan(f"if {test}:", DIVIDED, "else:", WHOLE, END)
    first, second, output = sorted(found.layers[0].bottlenecks, key=lambda role: role.host)
    assert (first.host, first.sublayer) == ("attention_adapters", "")  # either branch comes to it
    assert (second.host, second.sublayer) == ("attention_adapters_1", sublayer)
    assert second.classes == (("Linear",) if sublayer else ())
    assert (output.location, output.sublayer) == (Role.OUTPUT, "")
    assert set(found.layers[0].optional) >= ({sublayer} - {""})


def test_a_module_that_may_be_left_out_on_the_way_is_not_needed() -> None:
    divided = DIVIDED.replace("self.dense(self.over_time(", "(self.dense if mask else self.table)(self.over_time(")
    found = plan('if self.kind == "divided":', divided, "else:", WHOLE, END)
    needed = {role.sublayer for role in found.layers[0].bottlenecks}
    assert needed <= {"", "over_time"}
