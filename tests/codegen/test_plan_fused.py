"""In which order a fused projection gives queries, keys and values, and where the text does not prove one."""

from __future__ import annotations

import pytest

from adapter_codegen.model import AttentionRoles, OutputOrder
from plan_snippets import ATTENTION, plan_of_attention, plan_of_layer

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


def roles(*cuts: str) -> AttentionRoles:
    """Of an attention that runs `cuts`, and attends."""
    (found,) = plan_of_attention(SHAPE, *cuts, *ATTEND).layers[0].attentions
    return found


def shown(order: OutputOrder) -> str:
    """``q: a, k: b, v: b of 3 * b; if c, not d``: the size of each part, of a group, and when it is so."""
    parts = ", ".join(f"{part}: {size}" for part, size in zip(order.parts, order.sizes, strict=True))
    conditions = [f"if {name}" for name in order.where] + [f"not {name}" for name in order.unless]
    return "; ".join([f"{parts} of {order.group or 'outputs'}", *conditions])


def orders(*cuts: str, heads: tuple[str, ...] = HEADS) -> list[str]:
    """The proven orders where `cuts` make queries, keys and values of ``self.q(states)``."""
    found = roles(*cuts, *heads)
    assert found.fused == "attention.q"
    return list(map(shown, found.orders))


# All of one part after the other -----------------------------------------------------------------------------------------

THIRDS = ["q: outputs // 3, k: outputs // 3, v: outputs // 3 of outputs"]


@pytest.mark.parametrize(
    ("cut", "order"),
    [
        ("query, key, value = self.q(states).chunk(3, dim=-1)", THIRDS),
        ("parts = self.q(states).chunk(3, dim=-1)\nquery, key, value = parts[0], parts[1], parts[2]", THIRDS),
        (
            "fused = self.q(states)\nif self.clip:\n    fused = fused.clamp(min=-1)\nquery, key, value = fused.chunk(3, dim=2)",
            THIRDS,
        ),
        ("query, key, value = self.q(states).split(self.size, dim=2)", ["q: size, k: size, v: size of outputs"]),
        (
            "query, key, value = torch.split(self.q(states), self.size, dim=-1)",
            ["q: size, k: size, v: size of outputs"],
        ),
        (
            "query, key, value = self.q(states).split([self.size, self.less, self.less], dim=-1)",
            ["q: size, k: less, v: less of outputs"],
        ),
        (
            "query, key, value = self.q(states).chunk(3, dim=-1)\n"
            "if self.pools:\n    query = query.view(*lead, 2, -1).max(dim=2).values",
            THIRDS,
        ),
        (
            "fused = self.q(states)\nparts = fused.chunk(3, dim=-1)\nquery, key = parts[0], fused.new_zeros(9)\n"
            "key[:] = parts[1]\nvalue = parts[2]",
            THIRDS,
        ),
        (
            "query, key, value = self.q(states).unsqueeze(1).split((self.size, self.less, self.less), dim=3)",
            ["q: size, k: less, v: less of outputs"],
        ),
        (
            "size = 4 * self.head_dim\nfused = self.q(states)\nquery = fused[..., :size]\n"
            "key, value = fused[..., size : size + self.less], fused[..., size + self.less :]",
            ["q: 4 * head_dim, k: less, v: outputs - 4 * head_dim - less of outputs"],
        ),
    ],
    ids=lambda value: value.partition("\n")[0] if isinstance(value, str) else "",
)
def test_cuts_of_all_channels(cut: str, order: list[str]) -> None:
    assert orders(cut) == order


@pytest.mark.parametrize(
    ("cut", "order"),
    [
        (
            "query, value, key = self.q(states).chunk(3, dim=-1)",
            "q: outputs // 3, v: outputs // 3, k: outputs // 3 of outputs",
        ),
        ("value, key, query = self.q(states).split(self.size, dim=2)", "v: size, k: size, q: size of outputs"),
        (
            "a, b, c = self.q(states).split([self.a, self.b, self.c], dim=2)\nvalue = b\nquery, key = c, a",
            "k: a, v: b, q: c of outputs",
        ),
    ],
)
def test_parts_have_the_order_in_which_they_are_used_whatever_they_are_called(cut: str, order: str) -> None:
    assert orders(cut) == [order]


@pytest.mark.parametrize(
    "cut",
    [
        "gate, query, key, value = self.q(states).chunk(4, dim=-1)",
        "query, key, value, gate = self.q(states).chunk(4, dim=-1)",
        "query, gate, key, value = self.q(states).chunk(4, dim=-1)",
        "query, key, value, gate = self.q(states).split(self.size, dim=-1)",
        "parts = self.q(states).split(self.size, dim=-1)\nquery, key, value = parts[0], parts[1], parts[2]",
        "query, key, value = self.q(states).chunk(3, dim=1)",
        "query, key, value = self.q(states).chunk(3)",
        "both, value = self.q(states).split([2 * self.size, self.size], dim=-1)\nquery, key = both.chunk(2, dim=-1)",
        "query, key, value = self.q(states).split([self.size, self.less, mask.shape[1]], dim=-1)",
        "size = mask.shape[1]\nfused = self.q(states)\nquery, key, value = fused[..., :size], fused[..., size:9], fused[..., 9:]",
    ],
    ids=lambda cut: cut.partition("\n")[0],
)
def test_what_leaves_something_out_or_states_no_size_proves_no_order(cut: str) -> None:
    assert orders(cut) == []


def test_slices_that_leave_something_out_or_overlap_prove_no_order() -> None:
    fused = "fused = self.q(states)"
    gap = "query, key, value = fused[..., :self.a], fused[..., self.b:self.c], fused[..., self.c:]"
    rest = "query, key, value = fused[..., :self.a], fused[..., self.a:self.c], fused[..., self.c:self.d]"
    steps = "query, key, value = fused[..., ::3], fused[..., 1::3], fused[..., 2::3]"
    same = "query, key, value = fused[..., :self.a], fused[..., self.a:], fused[..., self.a:]"
    assert [orders(fused, cuts) for cuts in (gap, rest, steps, same)] == [[], [], [], []]


def test_an_output_that_may_be_another_tensor_proves_no_order() -> None:
    cuts = (
        "fused = self.q(states)",
        "if self.other:\n    fused = states",
        "query, key, value = fused.chunk(3, dim=2)",
    )
    assert orders(*cuts) == []


# In each head or group of heads -------------------------------------------------------------------------------------------

PER_HEAD = ["q: head_dim, k: head_dim, v: head_dim of 3 * head_dim"]


@pytest.mark.parametrize(
    "cut",
    [
        "fused = self.q(states).view(*lead, -1, 3, self.head_dim)",
        "fused = self.q(states).view(*lead, self.heads, 3, self.head_dim)",
        "shape = states.size()[:-1] + (self.heads, 3, self.head_dim)\nfused = self.q(states).view(*shape)",
    ],
)
@pytest.mark.parametrize(
    "parts",
    [
        "query, key, value = fused.unbind(-2)",
        "query, key, value = fused[..., 0, :], fused[..., 1, :], fused[..., 2, :]",
        "query, key, value = fused[..., [-3], :], fused[..., [-2], :], fused[..., [-1], :]",
        "query, key, value = fused.permute(3, 0, 2, 1, 4)",
    ],
)
def test_an_order_per_head(cut: str, parts: str) -> None:
    assert orders(cut, parts, heads=()) == PER_HEAD


@pytest.mark.parametrize(
    ("cuts", "order"),
    [
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3 * self.head_dim).transpose(1, 2)\n"
            "query, key, value = fused.chunk(3, dim=-1)",
            PER_HEAD,
            id="equal parts of a stated size",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3 * self.head_dim)\n"
            "query, key, value = fused.split(3 * [self.head_dim], dim=3)",
            PER_HEAD,
            id="a list of equal sizes",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3 * self.head_dim)\nwidth = self.head_dim\n"
            "query, key, value = fused[..., :width], fused[..., width : 2 * width], fused[..., 2 * width :]",
            PER_HEAD,
            id="slices",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, self.a + self.b + self.c)\n"
            "query, key, value = torch.split(fused, [self.a, self.b, self.c], dim=-1)",
            ["q: a, k: b, v: c of a + b + c"],
            id="parts of different sizes",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, self.head_dim)\nquery, value, key = fused.unbind(-2)",
            ["q: head_dim, v: head_dim, k: head_dim of 3 * head_dim"],
            id="values before keys",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, 2 * self.head_dim)\nquery, key, value = fused.unbind(-2)",
            ["q: 2 * head_dim, k: 2 * head_dim, v: 2 * head_dim of 6 * head_dim"],
            id="a size that is computed",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, self.heads, -1)\nquery, key, value = fused.chunk(3, dim=-1)",
            ["q: (outputs // heads) // 3, k: (outputs // heads) // 3, v: (outputs // heads) // 3 of outputs // heads"],
            id="a size that is left open, of all that there are",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, 4, -1)\nquery, value, key = fused.split(self.head_dim, dim=-1)",
            ["q: head_dim, v: head_dim, k: head_dim of outputs // 4"],
            id="groups of heads",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, self.heads // self.groups + 2, self.head_dim)\n"
            "query, key, value = fused[..., :-2, :], fused[..., [-2], :], fused[..., [-1], :]",
            [
                "q: (heads // groups) * head_dim, k: head_dim, v: head_dim of (heads // groups) * head_dim + 2 * head_dim"
            ],
            id="queries that share a key",
        ),
        pytest.param(
            "a, b, c = states.shape[1], states.shape[0], 7\n"
            "query, key, value = self.q(states).view(c, a, b, 3, self.heads, self.head_dim).permute(3, 0, 4, 2, 1, 5)",
            ["q: head_dim * heads, k: head_dim * heads, v: head_dim * heads of 3 * head_dim * heads"],
            id="whatever stands in front",
        ),
    ],
)
def test_the_order_in_a_group(cuts: str, order: list[str]) -> None:
    assert orders(cuts, heads=()) == order


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, self.head_dim)\n"
            "query, key, value = fused[..., 0, 1:], fused[..., 1, 1:], fused[..., 2, 1:]",
            id="a slice of each part",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 3, self.head_dim)\n"
            "other = self.q(states).view(*lead, -1, 3 * self.head_dim)\n"
            "query, key, value = fused.unbind(-2) if self.new else other.chunk(3, dim=1)",
            id="one of two, of which one is not followed",
        ),
        pytest.param(
            "fused = self.q(states).view(self.a, self.b, 3, -1)\nquery, key, value = fused.unbind(2)",
            id="a size that is left open, of it is not shown what",
        ),
        pytest.param(
            "fused = self.q(states).view(*lead, -1, 4, self.head_dim)\n"
            "query, key, value = fused[..., 0, :], fused[..., 1, :], fused[..., 2, :]",
            id="a fourth part",
        ),
        pytest.param(
            "fused = self.q(states).transpose(1, 2).reshape(*lead, 3, self.head_dim)\nquery, key, value = fused.unbind(2)",
            id="cut up after it was turned",
        ),
    ],
)
def test_where_the_text_proves_no_order_in_a_group(cuts: str) -> None:
    assert orders(cuts, heads=()) == []


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
        "b, l, w = states.size()\nfused = self.q(states).reshape(b, l, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)\n"
        "query, key, value = fused[0], fused[1], fused[2]",
    ],
    ids=lambda cut: cut.partition("\n")[0],
)
def test_the_most_significant_factor_of_three_is_thirds(cut: str) -> None:
    assert orders(cut, heads=()) == THIRDS


WINDOW = "batch, height, width, _ = states.shape"
OF_WINDOW = "fused = self.q(states).reshape({lead}, 3, self.heads, -1).permute(2, 0, 3, 1, 4)"
PARTS = "query, key, value = fused.reshape(3, batch * self.heads, height * width, -1).unbind(0)"


@pytest.mark.parametrize(
    ("lead", "order"),
    [
        pytest.param("batch, height * width", THIRDS, id="all positions"),
        pytest.param("batch, height", [], id="one side is missing, so that channels may stand in front"),
        pytest.param("batch, height * height", [], id="one side twice"),
        pytest.param("batch, self.length", [], id="a size from elsewhere"),
    ],
)
def test_positions_of_a_window_are_put_into_a_row(lead: str, order: list[str]) -> None:
    assert orders(WINDOW, OF_WINDOW.format(lead=lead), PARTS, heads=()) == order


def test_the_sizes_of_another_tensor_prove_nothing() -> None:
    cuts = (WINDOW.replace("states", "bias"), OF_WINDOW.format(lead="batch, height * width"), PARTS)
    assert orders(*cuts, heads=()) == []


# In branches of the module ------------------------------------------------------------------------------------------------

CONSTRUCTOR = "        self.multi_query = config.multi_query\n        self.head_dim"
BLOCKS = "query, key, value = fused.split([self.a, self.b, self.b], dim=-1)"
INTERLEAVED = "query, key, value = fused.view(*lead, -1, 3, self.head_dim).unbind(-2)"


SUBCLASS = """
class Attention(Parent):
    def __init__(self, config):
        super().__init__(config)
        self.own = True

"""


def orders_in_branches(*cuts: str, constructor: str = CONSTRUCTOR, is_inherited: bool = False) -> list[str]:
    head, _, _ = ATTENTION.replace("        self.head_dim", constructor, 1).partition("    def forward")
    lines = "\n".join((SHAPE, "fused = self.q(states)", *cuts, *ATTEND)).split("\n")
    forward = "    def forward(self, states, mask=None):\n" + "".join(f"        {line}\n" for line in lines)
    layer = "x = x + self.attention(self.norm1(x), mask)[0]\nreturn x + self.mlp(self.norm2(x))"
    attention = head + forward
    if is_inherited:
        attention = attention.replace("class Attention(", "class Parent(") + SUBCLASS
    (found,) = plan_of_layer(layer, "", attention).layers[0].attentions
    return list(map(shown, found.orders))


def in_branches(test: str, one: str, other: str) -> str:
    return f"if {test}:\n    {one}\nelse:\n    {other}"


@pytest.mark.parametrize("is_inherited", [False, True], ids=["its own", "of the class above"])
def test_a_switch_of_the_constructor_tells_two_orders_apart(is_inherited: bool) -> None:
    assert orders_in_branches(in_branches("self.multi_query", BLOCKS, INTERLEAVED), is_inherited=is_inherited) == [
        f"{PER_HEAD[0]}; not multi_query",
        "q: a, k: b, v: b of outputs; if multi_query",
    ]


def test_a_list_of_all_three_is_followed_element_by_element() -> None:
    listed = "query, key, value = [part.flatten(2) for part in (query, key, value)]"
    assert orders_in_branches(BLOCKS, listed) == ["q: a, k: b, v: b of outputs"]
    moved = "value, query, key = [part.flatten(2) for part in (key, value, query)]"
    assert orders_in_branches(BLOCKS, moved) == ["k: a, v: b, q: b of outputs"]


@pytest.mark.parametrize(
    ("cuts", "constructor"),
    [
        pytest.param(
            in_branches("self.multi_query and mask is None", BLOCKS, INTERLEAVED),
            CONSTRUCTOR,
            id="not by a switch alone",
        ),
        pytest.param(in_branches("mask is None", BLOCKS, INTERLEAVED), CONSTRUCTOR, id="by what it is called with"),
        pytest.param(
            in_branches("self.multi_query", BLOCKS, INTERLEAVED), "        self.head_dim", id="nobody sets the switch"
        ),
        pytest.param(
            in_branches("mask is None", BLOCKS, "query, key, value = fused.flip(-1).chunk(3, dim=-1)"),
            CONSTRUCTOR,
            id="one branch is not followed",
        ),
        pytest.param(
            in_branches("mask is None", BLOCKS, "query, key, value = fused.flip(-1), states, states"),
            CONSTRUCTOR,
            id="one branch gives something that is computed of all outputs",
        ),
        pytest.param(
            in_branches("self.multi_query", BLOCKS, "query, key, value = fused, states, states"),
            CONSTRUCTOR,
            id="one branch gives queries alone",
        ),
    ],
)
def test_branches_that_no_switch_tells_apart_prove_no_order(cuts: str, constructor: str) -> None:
    assert orders_in_branches(cuts, constructor=constructor) == []


# Keys and values ----------------------------------------------------------------------------------------------------------

QUERY = "query = self.q(states).view(shape).transpose(1, 2)"


@pytest.mark.parametrize(
    ("cut", "order"),
    [
        ("key, value = self.k(states).chunk(2, dim=-1)", ["k: outputs // 2, v: outputs // 2 of outputs"]),
        ("value, key = self.k(states).split(self.size, dim=2)", ["v: size, k: size of outputs"]),
        (
            "key, value = self.k(states).view(*lead, -1, self.a + self.b).split([self.a, self.b], dim=-1)",
            ["k: a, v: b of a + b"],
        ),
        ("key = value = self.k(states)", []),
        ("key, value, gate = self.k(states).chunk(3, dim=-1)", []),
    ],
)
def test_keys_and_values_of_one_projection(cut: str, order: list[str]) -> None:
    found = roles(QUERY, cut, *HEADS[1:])
    assert found.key == found.value == "attention.k"
    assert list(map(shown, found.orders)) == order
