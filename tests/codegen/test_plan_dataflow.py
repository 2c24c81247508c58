"""Definitions and uses: what the graph of a forward says about where a value came from."""

from __future__ import annotations

import pytest

from adapter_codegen.plan.attention.table import find_cores
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.layout import Layouts
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Flow, Op, Value, alternatives, ancestors, same_tensor
from plan_snippets import MLP, facts_of, flow_of


def returned(body: str, more: str = "") -> tuple[Flow, Value]:
    lines = "\n".join(" " * 8 + line for line in body.strip().splitlines())
    init = "        super().__init__()\n        self.a = nn.Linear(8, 8)\n        self.b = Mlp(config)\n"
    source = f"{MLP}\nclass M(nn.Module):\n    def __init__(self, config):\n{init}{more}\n    def forward(self, x, y=None):\n{lines}\n"
    flow, _, _ = flow_of(source, "M")
    assert flow.returned is not None
    return flow, flow.returned


def submodules(value: Value) -> set[str]:
    return {one.path for one in ancestors(value).values() if one.op is Op.SUBMODULE}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("z = self.a(x)\nreturn x", set(), id="a value that is thrown away is no origin"),
        pytest.param("z = self.a(x)\nz = x\nreturn z", set(), id="an overwritten name forgets what it was"),
        pytest.param("return x.to(self.a(x).dtype)", set(), id="the dtype of a value says nothing about its contents"),
        pytest.param("z = self.a(x)\nreturn z", {"a"}, id="a call is the origin of its result"),
        pytest.param("z, w = self.a(x), y\nreturn z", {"a"}, id="a tuple is taken apart"),
        pytest.param("w, *z = y, self.a(x)\nreturn w", set(), id="the other part of a tuple is no origin"),
        pytest.param("z = (self.a(x),) + (y,)\nreturn z[0]", {"a"}, id="tuples are put together"),
        pytest.param("z = (self.a(x),) + y[1:]\nreturn z[0]", {"a"}, id="an element before what is of unknown length"),
        pytest.param(
            "z = (x,) + (y, self.a(x))[1:]\nreturn z[0]", set(), id="what follows an element is no origin of it"
        ),
        pytest.param("z = (*y, self.a(x))\nreturn z[-1]", {"a"}, id="an element behind it, counted from the end"),
        pytest.param(
            "z = (x,)\nif y is not None:\n    z += (self.a(x),)\nz += (self.b(x),)\nreturn z[0]",
            set(),
            id="the first of a tuple that grows under a condition",
        ),
        pytest.param("z = (x, *y, self.a(x))\nreturn z[-1]", {"a"}, id="an element at the end only"),
        pytest.param("z = (x, *y, self.a(x))\nreturn z[2]", {"a"}, id="behind an unknown length it may be any"),
        pytest.param("z = (*y, x, self.a(x))\nreturn z[-2]", set(), id="the last but one is not the last"),
        pytest.param("w, z = (x, self.a(x), y)[:2]\nreturn w", set(), id="the first of the first two"),
        pytest.param("w, z = (y, self.a(x), x)[:2]\nreturn z", {"a"}, id="the second of the first two"),
        pytest.param("w, z = (x, self.a(x), y)[1:]\nreturn z", {"a"}, id="of a slice from elsewhere, each of any"),
        pytest.param("w, z = (x, *y, self.a(x))[:2]\nreturn z", {"a"}, id="behind a star, each of any"),
        pytest.param("return self.b(x)", {"b", "b.up", "b.down"}, id="the forward of a submodule is entered"),
        pytest.param(
            "return torch.utils.checkpoint.checkpoint(self.b, x)",
            {"b", "b.up", "b.down"},
            id="a checkpoint runs a module",
        ),
        pytest.param("return torch.save(self.b, x)", set(), id="another function that is given a module does not"),
        pytest.param("if y is not None:\n    x = self.a(x)\nreturn x", {"a"}, id="a branch that may run is an origin"),
        pytest.param("for _ in range(3):\n    x = self.a(x)\nreturn x", {"a"}, id="a loop's body is an origin"),
        pytest.param("x.add_(self.a(x))\nreturn x", {"a"}, id="an operation in place binds the name again"),
        pytest.param("x[..., :2].copy_(self.a(x))\nreturn x", {"a"}, id="a slice is written in place"),
        pytest.param("x += self.a(x)\nreturn x", {"a"}, id="an augmented assignment reads and binds"),
        pytest.param(
            "y, z = [one + 1 for one in (self.a(x), x)]\nreturn z",
            set(),
            id="each element of a list is made of its own",
        ),
        pytest.param(
            "y, z = [one + 1 for one in (x, self.a(x))]\nreturn z",
            {"a"},
            id="the second of a list is made of the second",
        ),
        pytest.param(
            "y, z = [one + 1 for one in (*y, self.a(x), x)]\nreturn z", {"a"}, id="of an unknown length, each of any"
        ),
        pytest.param("return (z := self.a(x))", {"a"}, id="an assignment expression has a value"),
    ],
)
def test_origins(body: str, expected: set[str]) -> None:
    _, value = returned(body)
    assert submodules(value) == expected


def test_a_method_that_is_handed_on_is_called_with_the_last_arguments() -> None:
    _, value = returned(
        "return apply_chunking_to_forward(self.chunk, 4, 1, x)\n",
        "\n    def chunk(self, part):\n        return self.a(part)\n",
    )
    assert submodules(value) == {"a"}


def test_a_condition_that_the_text_decides_leaves_one_branch() -> None:
    more = "\n    def pick(self, x, other=None):\n        return self.a(x) if other is None else self.b(other)\n"
    _, value = returned("return self.pick(x)", more)
    assert submodules(value) == {"a"}
    _, value = returned("return self.pick(x, y)", more)
    assert {"a", "b"} <= submodules(value)


def test_a_helper_that_calls_itself_ends() -> None:
    flow, _ = returned("return self.again(x)", "\n    def again(self, x):\n        return self.again(self.a(x))\n")
    assert len(flow.values) < 100


OWN_GRADIENT = """
class Own({base}):
    @staticmethod
    def forward(ctx, first, second):
        ctx.kept = second
        return {returned}

"""


@pytest.mark.parametrize(
    ("base", "result", "expected"),
    [
        pytest.param("torch.autograd.Function", "first.clone()", {"a"}, id="a context stands ahead of the arguments"),
        pytest.param("torch.autograd.Function", "second.clone()", set(), id="what it drops is no origin"),
        pytest.param("nn.Module", "second.clone()", {"a"}, id="no: any other class has an apply of its own"),
    ],
)
def test_a_function_with_a_gradient_of_its_own_is_entered_where_it_is_applied(
    base: str, result: str, expected: set[str]
) -> None:
    init = "    def __init__(self):\n        super().__init__()\n        self.a = nn.Linear(8, 8)\n"
    own = OWN_GRADIENT.format(base=base, returned=result)
    flow, _, _ = flow_of(
        f"{own}class M(nn.Module):\n{init}\n    def forward(self, x):\n        return Own.apply(self.a(x), x)\n", "M"
    )
    assert flow.returned is not None
    assert submodules(same_tensor(flow.returned.through or flow.returned)) == expected


@pytest.mark.parametrize(
    ("drawn", "kind"),
    [
        pytest.param("torch.empty_like(x).bernoulli_(p)", Kind.DROPOUT, id="it draws what it keeps"),
        pytest.param("x > p", Kind.WORK, id="no: it keeps what is large"),
    ],
)
def test_a_dropout_with_a_gradient_of_its_own_is_a_dropout(drawn: str, kind: Kind) -> None:
    source = f"""
def kept(x, p):
    return {drawn}

class Dropping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        return x * kept(x, p)

class Dropout(nn.Module):
    def forward(self, x):
        return Dropping.apply(x, 0.1)
"""
    assert Kinds(facts_of(source)).of(["Dropout"]) is kind


def test_both_returns_of_a_function_are_alternatives() -> None:
    _, value = returned("if y is None:\n    return self.a(x)\nreturn x")
    assert {one.op for one in alternatives(value)} == {Op.SUBMODULE, Op.PARAMETER}


def test_a_parameter_is_the_argument_on_the_far_side_of_a_call() -> None:
    flow, value = returned("return self.same(x)", "\n    def same(self, z):\n        return z\n")
    assert same_tensor(value).name == "x"
    assert same_tensor(value).frame is flow.root


@pytest.mark.parametrize(
    ("view", "layout"),
    [
        pytest.param("view(x.shape[0] * 4, -1, 2)", None, id="batch and heads in one dimension prove nothing"),
        pytest.param("view(4, -1, 4, 2)", None, id="a number where the batch should be proves nothing"),
        pytest.param("view(*x.shape[:-1], -1, self.width)", ("b", "l", "x", "x"), id="batch and length are kept"),
        pytest.param("view(x.size(0), -1, 4, self.width).transpose(1, 2)", ("b", "x", "l", "x"), id="transposed"),
        pytest.param(
            "reshape(x.shape[0], x.shape[1], 3, 4, -1).permute(2, 0, 3, 1, 4)[0]",
            ("b", "x", "l", "x"),
            id="one of three in a permuted tensor",
        ),
        pytest.param(
            "reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)[0]",
            ("b", "x", "l", "x"),
            id="a part of the channels that the shape states",
        ),
        pytest.param(
            "reshape(b, n, 3, self.heads, x.shape[-1] // self.heads).permute(2, 0, 3, 1, 4)[0]",
            ("b", "x", "l", "x"),
            id="a part of the last of the shape",
        ),
        pytest.param("reshape(b, n // 2, 4, c // 2)", None, id="a part of the length is no length"),
        pytest.param("reshape(b, n, self.heads, n // self.heads)", None, id="a part of the length is no channels"),
        pytest.param("reshape(b, n, self.heads, c // n)", None, id="channels per position are none"),
        pytest.param("reshape(b, n, c // self.heads * n, -1)", None, id="nor channels times positions"),
        pytest.param("reshape(b, n, 4, w // self.heads)", None, id="nor the third of four"),
        pytest.param("reshape(c // self.heads, b, n, self.heads)", None, id="channels in front are no batch"),
    ],
)
def test_the_layout_of_a_view(view: str, layout: tuple[str, ...] | None) -> None:
    shapes = "b, n, c = x.shape\n_, _, w, _ = x.shape\n" if "reshape(" in view else ""
    body = f"{shapes}h = self.a(x).{view}\nreturn F.scaled_dot_product_attention(h, h, h)"
    lines = "\n".join(" " * 8 + line for line in body.splitlines())
    init = "        super().__init__()\n        self.a = nn.Linear(8, 8)\n        self.width = 2\n"
    source = f"class M(nn.Module):\n    def __init__(self):\n{init}\n    def forward(self, x):\n{lines}\n"
    flow, kinds, facts = flow_of(source, "M")
    (core,) = find_cores(Scene(facts, flow, kinds))
    assert Layouts(kinds).of(core.key) == layout
