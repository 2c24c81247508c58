"""Which projections are those of a feed-forward block."""

from __future__ import annotations

import pytest

from adapter_codegen.model import MLPRoles
from plan_snippets import plan_of_layer

ATTEND = "x = x + self.attention(self.norm1(x), mask)[0]"
FEED = "x = x + self.mlp(self.norm2(x))"
LINEARS = "\n".join(f"self.{name} = nn.Linear(8, 8)" for name in ("up", "gate", "down"))
INIT = f"{LINEARS}\nself.conv = nn.Conv1d(8, 8, 3)\nself.act = nn.SiLU()\nself.norm3 = nn.RMSNorm(8)"


def mlp_of(*lines: str) -> MLPRoles:
    return plan_of_layer("\n".join((ATTEND, *lines, "return x")), INIT).layers[0].mlp


MORE = [
    pytest.param("self.act(self.conv(self.up(x)))", id="a convolution"),
    pytest.param("self.act(F.conv1d(self.up(x), self.kernel))", id="a convolution by a function"),
    pytest.param("self.act(self.up(x)) * states", id="a factor that the layer is given"),
    pytest.param("torch.multiply(self.act(self.up(x)), states)", id="such a factor by a function"),
]
ONLY = [
    pytest.param("self.act(self.up(x))", id="an activation"),
    pytest.param("self.act(self.up(x)) * self.scale", id="a factor of its own"),
    pytest.param("self.act(self.up(x)) * self.norm2(x)", id="a factor that is made of the stream"),
]


@pytest.mark.parametrize("inside", MORE)
def test_a_block_that_does_more_is_no_feed_forward_block_beside_one(inside: str) -> None:
    assert mlp_of(FEED, f"x = x + self.down({inside})") == MLPRoles(("mlp.up",), (), ("mlp.down",))


@pytest.mark.parametrize("inside", MORE)
def test_a_block_that_does_more_is_the_feed_forward_block_where_there_is_no_other(inside: str) -> None:
    assert mlp_of(f"x = x + self.down({inside})") == MLPRoles(("up",), (), ("down",))


@pytest.mark.parametrize("inside", ONLY)
def test_a_layer_may_have_several_feed_forward_blocks(inside: str) -> None:
    assert mlp_of(FEED, f"x = x + self.down({inside})") == MLPRoles(("mlp.up", "up"), (), ("mlp.down", "down"))


def test_a_projection_alone_is_no_feed_forward_block() -> None:
    assert mlp_of("x = x + self.down(self.act(self.norm2(x)))") == MLPRoles()


@pytest.mark.parametrize(
    "read",
    [
        pytest.param("y", id="as it is"),
        pytest.param("self.norm3(y)", id="normed"),
        pytest.param("torch.clamp(y, -1, 1) if self.clips else y", id="clipped, or not"),
    ],
)
def test_the_activated_factor_is_the_gate_whatever_is_done_to_the_product(read: str) -> None:
    product = "y = self.act(self.gate(x)) * self.up(x)"
    assert mlp_of(product, f"x = x + self.down({read})") == MLPRoles(("up",), ("gate",), ("down",))


def test_factors_that_are_both_activated_are_none_the_gate_of_the_other() -> None:
    found = mlp_of("x = x + self.down(self.norm3(self.act(self.gate(x)) * self.act(self.up(x))))")
    assert (set(found.first), found.gate) == ({"up", "gate"}, ())
