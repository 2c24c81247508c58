"""In which order a fused projection gives queries, keys and values, and where the text does not prove one."""

from __future__ import annotations

import pytest

from plan_snippets import plan_of_attention

SHAPE = "lead = states.shape[:-1]\nshape = (*lead, -1, self.head_dim)"
HEADS = (
    "query = query.view(shape).transpose(1, 2)",
    "key = key.view(shape).transpose(1, 2)",
    "value = value.view(shape).transpose(1, 2)",
)
ATTEND = (
    'attend = ALL_ATTENTION_FUNCTIONS.get_interface("eager", eager_attention_forward)',
    "out, weights = attend(self, query, key, value, mask, scaling=self.scaling)",
    "return self.o(out.reshape(*lead, -1)), weights",
)


def group(*cuts: str, heads: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The attributes that state how large queries, keys and values are in a group of outputs of ``self.q(states)``."""
    (roles,) = plan_of_attention(SHAPE, *cuts, *heads, *ATTEND).layers[0].attentions
    assert (roles.fused_layout == "grouped") is bool(roles.group)
    return roles.group


def layout(*cuts: str, heads: tuple[str, ...] = HEADS) -> str:
    """The proven order where `cuts` make queries, keys and values of ``self.q(states)``."""
    (roles,) = plan_of_attention(SHAPE, *cuts, *heads, *ATTEND).layers[0].attentions
    assert roles.fused == "attention.q"
    return roles.fused_layout


@pytest.mark.parametrize(
    "cut",
    [
        "fused = self.q(states).view(*lead, -1, 3, self.head_dim)",
        "fused = self.q(states).view(*lead, self.heads, 3, self.head_dim)",
    ],
)
@pytest.mark.parametrize(
    "parts",
    [
        "query, key, value = fused.unbind(-2)",
        "query, key, value = fused[..., 0, :], fused[..., 1, :], fused[..., 2, :]",
        "query, key, value = fused.permute(3, 0, 2, 1, 4)",
    ],
)
def test_an_order_per_head_is_grouped(cut: str, parts: str) -> None:
    assert group(cut, parts) == ("head_dim", "head_dim", "head_dim")


@pytest.mark.parametrize(
    ("cuts", "sizes"),
    [
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3 * self.head_dim).transpose(1, 2)\n"
            "query, key, value = fused.chunk(3, dim=-1)",
            ("head_dim",) * 3,
            id="equal parts of a stated size",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, self.a + self.b + self.c)\n"
            "query, key, value = torch.split(fused, [self.a, self.b, self.c], dim=-1)",
            ("a", "b", "c"),
            id="parts of different sizes",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3 * self.head_dim)\n"
            "query, key, value = fused.split(3 * [self.head_dim], dim=3)",
            ("head_dim",) * 3,
            id="a list of equal sizes",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, self.head_dim)\n" "query, value, key = fused.unbind(-2)",
            (),
            id="values before keys",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, 2 * self.head_dim)\nquery, key, value = fused.unbind(-2)",
            (),
            id="a size that no attribute states",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, self.heads, -1)\nquery, key, value = fused.chunk(3, dim=-1)",
            (),
            id="a size that is left open",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, self.head_dim)\n"
            "query, key, value = fused[..., 0, 1:], fused[..., 1, 1:], fused[..., 2, 1:]",
            (),
            id="a slice of each part",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, self.head_dim)\n"
            "other = self.q(states).view(*lead, -1, 3 * self.head_dim)\n"
            "query, key, value = fused.unbind(-2) if self.new else other.chunk(3, dim=1)",
            (),
            id="one of two orders",
        ),
    ],
)
def test_groups_are_known_where_attributes_state_all_sizes(cuts: str, sizes: tuple[str, ...]) -> None:
    assert group(cuts) == sizes


@pytest.mark.parametrize(
    "cuts",
    [
        # groups of heads
        "fused = self.q(states).view(*lead, 4, -1)\nquery, key, value = fused.split(self.head_dim, dim=-1)",
    ],
)
def test_a_cut_behind_the_heads_is_not_concatenated(cuts: str) -> None:
    assert layout(cuts, heads=()) == ""


@pytest.mark.parametrize(
    "cut",
    [
        "query, value, key = self.q(states).chunk(3, dim=-1)",
        "key, query, value = self.q(states).split(self.size, dim=2)",
        "gate, query, key, value = self.q(states).chunk(4, dim=-1)",
        "query, key, value, gate = self.q(states).chunk(4, dim=-1)",
        "query, key, value, gate = self.q(states).split(self.size, dim=-1)",
        "parts = self.q(states).split(self.size, dim=-1)\nquery, key, value = parts[0], parts[1], parts[2]",
        "query, key, value = self.q(states).chunk(3, dim=1)",
        "query, key, value = self.q(states).chunk(3)",
        "both, value = self.q(states).split([2 * self.size, self.size], dim=-1)\nquery, key = both.chunk(2, dim=-1)",
    ],
    ids=lambda cut: cut.partition("\n")[0],
)
def test_another_order_or_number_of_parts_is_not_concatenated(cut: str) -> None:
    assert layout(cut) == ""


def test_slices_that_leave_something_out_are_not_concatenated() -> None:
    fused = "fused = self.q(states)"
    gap = "query, key, value = fused[..., :self.a], fused[..., self.b:self.c], fused[..., self.c:]"
    rest = "query, key, value = fused[..., :self.a], fused[..., self.a:self.c], fused[..., self.c:self.d]"
    steps = "query, key, value = fused[..., ::3], fused[..., 1::3], fused[..., 2::3]"
    assert [layout(fused, cuts) for cuts in (gap, rest, steps)] == ["", "", ""]


def test_values_of_another_width_leave_the_place_of_the_keys_open() -> None:
    cut = "query, key, value = self.q(states).split([self.a, self.b, self.c], dim=-1)"
    wide = (*HEADS[:2], "value = value.view(*lead, -1, self.value_dim).transpose(1, 2)")
    assert layout(cut, heads=wide) == ""


def test_an_output_that_may_be_another_tensor_proves_no_order() -> None:
    cuts = (
        "fused = self.q(states)",
        "if self.other:\n    fused = states",
        "query, key, value = fused.chunk(3, dim=2)",
    )
    assert layout(*cuts) == ""


def test_branches_that_cut_differently_prove_no_order() -> None:
    cuts = (
        "fused = self.q(states)",
        "if self.new:\n    query, key, value = fused.chunk(3, dim=-1)",
        "else:\n    query, key, value = fused.view(*lead, -1, 3, self.head_dim).unbind(-2)",
    )
    assert layout(*cuts) == ""


@pytest.mark.parametrize(
    "cut",
    [
        "query, key, value = self.q(states).split(self.size, dim=2)",
        "query, key, value = torch.split(self.q(states), self.size, dim=-1)",
        "query, key, value = self.q(states).chunk(3, dim=-1)",
        "query, key, value = self.q(states).split([self.size, self.less, self.less], dim=-1)",
        "size = 4 * self.head_dim\nfused = self.q(states)\nquery = fused[..., :size]\n"
        "key, value = fused[..., size : size + self.less], fused[..., size + self.less :]",
        "fused = self.q(states)\nif self.clip:\n    fused = fused.clamp(min=-1)\nquery, key, value = fused.chunk(3, dim=2)",
        "parts = self.q(states).chunk(3, dim=-1)\nquery, key, value = parts[0], parts[1], parts[2]",
    ],
    ids=lambda cut: cut.partition("\n")[0],
)
def test_cuts_of_all_channels_in_order_are_concatenated(cut: str) -> None:
    assert layout(cut) == "concatenated"


@pytest.mark.parametrize(
    "cut",
    [
        "query, key, value = self.q(states).view(*lead, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)",
        "fused = self.q(states).reshape(*lead, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)\n"
        "query, key, value = fused[0], fused[1], fused[2]",
        "query, key, value = self.q(states).reshape(*lead, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)",
        "fused = self.q(states).unflatten(-1, (3, -1, self.head_dim)).transpose(1, 3)\n"
        "query, key, value = fused[:, :, 0], fused[:, :, 1], fused[:, :, 2]",
        "tokens = states.shape[0]\nfused = self.q(states).reshape(tokens, 3, self.heads, -1).permute(1, 0, 2, 3)\n"
        "query, key, value = fused.unbind(0)",
    ],
    ids=lambda cut: cut.partition("\n")[0],
)
def test_the_most_significant_factor_of_three_is_concatenated(cut: str) -> None:
    assert layout(cut, heads=()) == "concatenated"


WINDOW = "batch, height, width, _ = states.shape"
OF_WINDOW = "fused = self.q(states).reshape({lead}, 3, self.heads, -1).permute(2, 0, 3, 1, 4)"
PARTS = "query, key, value = fused.reshape(3, batch * self.heads, height * width, -1).unbind(0)"


@pytest.mark.parametrize(
    ("lead", "order"),
    [
        pytest.param("batch, height * width", "concatenated", id="all positions"),
        pytest.param("batch, height", "", id="one side is missing, so that channels may stand in front"),
        pytest.param("batch, height * height", "", id="one side twice"),
        pytest.param("batch, self.length", "", id="a size from elsewhere"),
    ],
)
def test_positions_of_a_window_are_put_into_a_row(lead: str, order: str) -> None:
    assert layout(WINDOW, OF_WINDOW.format(lead=lead), PARTS, heads=()) == order


def test_the_sizes_of_another_tensor_prove_nothing() -> None:
    cuts = (WINDOW.replace("states", "bias"), OF_WINDOW.format(lead="batch, height * width"), PARTS)
    assert layout(*cuts, heads=()) == ""
