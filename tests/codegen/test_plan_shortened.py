"""Residuals that are convolved as what the sublayer reads is, where a layer shortens the stream."""

from __future__ import annotations

import pytest

from adapter_codegen.model import Role, StreamForm
from plan_snippets import plan_of_layer

INIT = """
self.stride = config.stride
self.act = nn.GLU(dim=1)
self.norm3 = nn.LayerNorm(8)
self.table = nn.Parameter(0)
self.pool = nn.Conv1d(8, 16, 3, stride=self.stride, padding=1)
self.beside = nn.Conv1d(8, 16, 3, {})
"""
SAME = "stride=self.stride, padding=1"
FORWARD = """
r = self.act(self.beside(self.norm3({0}).transpose(1, 2))).transpose(1, 2)
h = self.act(self.pool(self.norm1(x).transpose(1, 2))).transpose(1, 2)
h = {1}
return h + self.mlp(self.norm2(h))
"""
SUM = "self.dropout(self.attention(h, mask)[0]) + r"


def roles(forward: str, sizes: str = SAME) -> list[Role]:
    (found,) = plan_of_layer(forward, INIT.format(sizes)).layers
    return [role.location for role in found.bottlenecks]


@pytest.mark.parametrize(
    "added", [SUM, "r + self.attention(h, mask)[0]", "self.norm3(self.attention(h, mask)[0] + r)"]
)
def test_a_convolution_takes_the_place_of_the_stream_where_the_sublayer_reads_one_like_it(added: str) -> None:
    plan = plan_of_layer(FORWARD.format("x", added), INIT.format(SAME))
    assert [role.location for role in plan.layers[0].bottlenecks] == [Role.ATTENTION, Role.OUTPUT]
    assert not plan.entries[0].gaps
    assert plan.entries[0].form is StreamForm.GATHERED


@pytest.mark.parametrize("sizes", ["self.stride, padding=1", "self.stride, 1"])
def test_sizes_may_be_given_by_position(sizes: str) -> None:
    found = roles(FORWARD.format("x", SUM), sizes)
    assert found == ([Role.ATTENTION, Role.OUTPUT])


@pytest.mark.parametrize(
    ("start", "added", "sizes"),
    [
        pytest.param("x", SUM, "stride=2, padding=1", id="another stride"),
        pytest.param("x", SUM, "stride=self.stride", id="another padding"),
        pytest.param("x", SUM, "padding=1", id="no stride: the stream could be added itself"),
        pytest.param("states", SUM, SAME, id="a convolution of something else than the stream"),
        pytest.param("self.mlp(x)", SUM, SAME, id="a convolution of what a sublayer gave"),
        pytest.param(
            "x", "self.attention(self.norm1(x), mask)[0] + r", SAME, id="the sublayer reads the stream itself"
        ),
        pytest.param("x", "self.attention(h, mask)[0] + r * self.table + self.table", SAME, id="added to a sum"),
    ],
)
def test_another_convolution_beside_a_sublayer_is_no_residual(start: str, added: str, sizes: str) -> None:
    plan = plan_of_layer(FORWARD.format(start, added), INIT.format(sizes))
    assert Role.ATTENTION not in [role.location for role in plan.layers[0].bottlenecks]
    assert plan.entries[0].gaps and plan.entries[0].form is StreamForm.ROWS


def test_two_convolutions_without_a_stride_are_no_residual_of_each_other() -> None:
    plan = plan_of_layer(FORWARD.format("x", SUM), INIT.replace("stride=self.stride, ", "").format("padding=1"))
    assert Role.ATTENTION not in [role.location for role in plan.layers[0].bottlenecks]
    assert plan.entries[0].gaps


POOLED = """
h = x + self.attention(self.norm1(x), mask)[0]
p = {0}
return {1} + self.mlp(self.norm2({1}))
"""


@pytest.mark.parametrize("pooled", ["h.unfold(1, 2, 2).mean(-1)", "self.norm3(h).unfold(1, 3, self.stride).amax(-1)"])
def test_a_layer_that_pools_its_stream_gives_positions_for_several_tokens(pooled: str) -> None:
    plan = plan_of_layer(POOLED.format(pooled, "p"), INIT.format(SAME))
    assert plan.entries[0].form is StreamForm.GATHERED


@pytest.mark.parametrize(
    ("pooled", "goes_on"),
    [
        pytest.param("h.unfold(1, 2, 1).mean(-1)", "p", id="a window at every position"),
        pytest.param("h.unfold(2, 2, 2).mean(-1)", "p", id="windows of features"),
        pytest.param("self.mlp(h).unfold(1, 2, 2).mean(-1)", "p", id="windows of what a sublayer gave"),
        pytest.param("h.unfold(1, 2, 2).mean(-1)", "h", id="the stream goes on beside it"),
    ],
)
def test_other_windows_say_nothing_about_the_positions(pooled: str, goes_on: str) -> None:
    plan = plan_of_layer(POOLED.format(pooled, goes_on), INIT.format(SAME))
    assert plan.entries[0].form is not StreamForm.GATHERED
