"""Projections whose outputs come in groups: adapters of a part change that part in every group, and no other output."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from adapter_runtime.composition import Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.groups import Groups, evaluated, groups_of
from adapter_runtime.methods.common.projections import groups_at, projections_of
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.layer import enable_lora
from adapter_runtime.methods.lora.places import adapted_parts
from adapter_runtime.methods.prefix_tuning.places import prefix_shape
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import AttentionRoles, LayerRoles, OutputOrder

A, B, HEADS = 2, 3, 4


class Latent(nn.Module):
    """Keys and values of four heads out of one projection, and keys that get a part from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.width = A, B, A + 1
        self.q = nn.Linear(5, HEADS * (A + 1))
        self.kv = nn.Linear(5, HEADS * (A + B))
        self.o = nn.Linear(HEADS * B, 5)


class Block(LayerAdaptersMixin, nn.Module):
    roles = LayerRoles(
        attentions=(
            AttentionRoles(
                "attn",
                "self",
                query="attn.q",
                key="attn.kv",
                value="attn.kv",
                orders=(OutputOrder("kv", ("a", "b"), "a + b"),),
                output="attn.o",
                head_dim="width",
            ),
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self.attn = Latent()


def adapted(block: Block, **options: Any) -> nn.Module:
    """The projection of keys and values, with a random adapter that runs."""
    config = LoRAConfig(**{"r": 2, **options})
    found = next(projection for projection in projections_of(block) if projection.matrix == "kv")
    host = enable_lora(block.attn.kv, 0, "selfattn_lora_kv", fused=False, groups=groups_at(block, found))
    host.add_adapter("a", config, adapted_parts(block, found, config))
    torch.manual_seed(1)
    for parameter in host.loras.parameters():
        nn.init.normal_(parameter)
    host.activate(Stack("a"), frozenset())
    return host.eval()


@pytest.mark.parametrize(
    ("groups", "ordered"),
    [
        pytest.param(Groups(1, {"q": 2, "k": 1, "v": 1}), [0, 1, 2, 3], id="in order"),
        pytest.param(Groups(2, {"k": 1, "v": 2}), [0, 3, 1, 2, 4, 5], id="in groups"),
        pytest.param(Groups(1, {"v": 1, "k": 2, "q": 1}), [3, 1, 2, 0], id="another order"),
        pytest.param(Groups(2, {"q": 2, "v": 1, "k": 1}), [0, 1, 4, 5, 3, 7, 2, 6], id="another order in groups"),
        pytest.param(Groups(2, {"g": 1, "q": 2}), [1, 2, 4, 5, 0, 3], id="gates in front of queries"),
    ],
)
def test_what_is_put_in_order_and_back_is_the_same(groups: Groups, ordered: list[int]) -> None:
    outputs = torch.arange(len(ordered)).expand(2, 3, -1)
    assert groups.in_order(outputs)[0, 0].tolist() == ordered
    assert list(groups.spans) == [part for part in "qkvg" if part in groups.sizes]
    starts, stops = zip(*groups.spans.values(), strict=True)
    assert (0, *stops) == (*starts, len(ordered))
    torch.testing.assert_close(groups.grouped(groups.in_order(outputs)), outputs)
    torch.testing.assert_close(groups.grouped(groups.in_order(outputs.mT, dim=1), dim=1), outputs.mT)


@pytest.mark.parametrize(("matrix", "changed"), [("k", [True] * A + [False] * B), ("v", [False] * A + [True] * B)])
@pytest.mark.parametrize(
    "options", [{}, {"use_dora": True}, {"composition_mode": "scale", "r": 1}], ids=["lora", "dora", "ia3"]
)
def test_an_adapter_of_a_part_changes_it_in_every_group(
    matrix: str, changed: list[bool], options: dict[str, Any]
) -> None:
    block = Block()
    x = torch.randn(2, 3, 5)
    before = block.attn.kv(x)
    after = adapted(block, attn_matrices=[matrix], **options)(x)
    differs = ((after - before).abs().amax((0, 1)) > 1e-6).view(HEADS, A + B)
    assert differs.tolist() == [changed] * HEADS


@pytest.mark.parametrize("matrices", [["k"], ["v"], ["k", "v"]])
def test_the_weights_take_the_adapter_in(matrices: list[str]) -> None:
    block = Block()
    x, weight = torch.randn(2, 3, 5), block.attn.kv.weight.detach().clone()
    host = adapted(block, attn_matrices=matrices)
    expected = host(x)
    host.merge("a")  # type: ignore[operator]
    torch.testing.assert_close(nn.functional.linear(x, host.weight, host.bias), expected)  # type: ignore[arg-type]
    host.unmerge()  # type: ignore[operator]
    assert torch.equal(host.weight, weight)  # type: ignore[arg-type]


def test_a_prefix_has_the_width_of_queries_and_of_a_groups_values() -> None:
    block = Block()
    assert prefix_shape(block, block.roles.attentions[0]) == (HEADS, A + 1, B)


def test_a_prefix_of_keys_and_values_side_by_side_has_their_heads() -> None:
    block = Block()
    block.attn.width = A
    (roles,) = block.roles.attentions
    halves = replace(roles, orders=(OutputOrder("kv", (f"{HEADS} * a", f"{HEADS} * b")),))
    assert prefix_shape(block, halves) == (HEADS, A, B)


def test_groups_that_do_not_fill_the_outputs_are_refused() -> None:
    block = Block()
    block.attn.b = B + 1
    with pytest.raises(UnsupportedMethodError, match=r"attn.kv has 20 outputs, which are no groups of a = 2, b = 4"):
        groups_of(block, block.roles.attentions[0])


@pytest.mark.parametrize(
    ("sizes", "group"),
    [
        pytest.param(("a", "b"), "a + b + a", id="something is left out"),
        pytest.param(("a", "missing"), "a + b", id="an attribute is missing"),
        pytest.param(("a", "config.b"), "a + b", id="an attribute of nothing"),
        pytest.param(("0 * a", "a + b"), "a + b", id="nothing at all"),
        pytest.param(("a", "outputs // (a - 2)"), "", id="parts of nothing"),
        pytest.param(("7", "12"), "", id="less than all outputs"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[str, str], group: str) -> None:
    block = Block()
    roles = replace(block.roles.attentions[0], orders=(OutputOrder("kv", sizes, group),))
    with pytest.raises(UnsupportedMethodError, match=r"attn.kv has 20 outputs, which are no groups of"):
        groups_of(block, roles)


@pytest.mark.parametrize(
    ("switch", "order"),
    [(True, {"v": HEADS * B, "k": HEADS * A}), (False, {"k": A, "v": B}), (None, None)],
    ids=["where it is on", "where it is off", "where it is missing"],
)
def test_a_switch_of_the_module_chooses_the_order(switch: bool | None, order: dict[str, int] | None) -> None:
    block = Block()
    if switch is not None:
        block.attn.values_first = switch
    first = OutputOrder("vk", (f"{HEADS} * b", f"{HEADS} * a"), where=("values_first",))
    second = OutputOrder("kv", ("a", "b"), "a + b", unless=("values_first",))
    roles = replace(block.roles.attentions[0], orders=(first, second))
    if order is None:
        with pytest.raises(UnsupportedMethodError, match="not known for this Latent"):
            groups_of(block, roles)
    else:
        found = groups_of(block, roles)
        assert found is not None
        assert list(found.sizes.items()) == list(order.items())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("outputs // 3", 4),
        ("outputs - 2 * config.width * heads", 0),
        ("(outputs // heads) * heads - 1", 11),
        ("heads // (heads - 3)", None),
        ("width", None),
        ("config.name", None),
    ],
)
def test_a_size_is_computed_of_attributes(expression: str, value: int | None) -> None:
    module = nn.Module()
    module.heads, module.config = 3, SimpleNamespace(width=2, name="twelve")  # type: ignore[assignment]
    assert evaluated(expression, {"outputs": 12}, module) == value


class Gated(nn.Module):
    """Queries and gates of four heads out of one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = A, B
        self.q = nn.Linear(5, HEADS * (A + B))


def gated(known: bool = True) -> Block:
    orders = (OutputOrder("qg", ("a", "b"), "a + b"),) if known else ()
    roles = AttentionRoles("attn", "self", query="attn.q", gate="attn.q", gate_orders=orders)
    block = Block()
    block.roles = LayerRoles(attentions=(roles,))
    block.attn = Gated()  # type: ignore[assignment]
    return block


def parts_of(block: Block, *matrices: str) -> Any:
    return adapted_parts(block, next(projections_of(block)), LoRAConfig(attn_matrices=list(matrices)))


def test_queries_are_adapted_and_not_the_gates_beside_them() -> None:
    block = gated()
    projection = next(projections_of(block))
    assert projection.matrix == "qg"
    host = enable_lora(block.attn.q, 0, "selfattn_lora_q", fused=False, groups=groups_at(block, projection))
    host.add_adapter("a", LoRAConfig(r=2), parts_of(block, "q", "v"))
    before = host.eval()(x := torch.randn(2, 3, 5))
    for parameter in host.loras.parameters():
        nn.init.normal_(parameter)
    host.activate(Stack("a"), frozenset())
    differs = ((host(x) - before).abs().amax((0, 1)) > 1e-6).view(HEADS, A + B)
    assert differs.tolist() == [[True] * A + [False] * B] * HEADS


def test_queries_and_gates_are_adapted_as_one() -> None:
    """As PEFT does, which knows of no parts."""
    assert parts_of(gated(), "q", "g") == parts_of(gated(known=False), "q", "g") == [(0, HEADS * (A + B))]
    assert parts_of(gated(), "g") == [(HEADS * A, HEADS * (A + B))]
    assert parts_of(gated(), "k", "v") == []


def test_queries_whose_order_among_gates_is_not_known_are_refused() -> None:
    with pytest.raises(
        UnsupportedMethodError, match=r"attn.q gives queries, and gates .* attn_matrices=\['q', 'g', 'v'\]"
    ):
        parts_of(gated(known=False), "q")
