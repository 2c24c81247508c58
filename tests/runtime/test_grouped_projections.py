"""Projections whose outputs come in groups: adapters of a part change that part in every group, and no other output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from adapter_runtime.composition import Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.groups import Groups, groups_of
from adapter_runtime.methods.common.projections import groups_at, projections_of
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.layer import enable_lora
from adapter_runtime.methods.lora.places import adapted_parts
from adapter_runtime.methods.prefix_tuning.places import prefix_shape
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.roles import AttentionRoles, LayerRoles

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
                group=("a", "b"),
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


def test_what_is_put_in_order_and_back_is_the_same() -> None:
    outputs = torch.arange(HEADS * (A + B)).expand(2, 3, -1)
    groups = Groups(HEADS, (A, B))
    ordered = groups.in_order(outputs)
    assert ordered[0, 0].tolist()[:4] == [0, 1, 5, 6]  # the first part of each group
    assert groups.spans == [(0, HEADS * A), (HEADS * A, HEADS * (A + B))]
    torch.testing.assert_close(groups.grouped(ordered), outputs)
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


def test_groups_that_do_not_fill_the_outputs_are_refused() -> None:
    block = Block()
    block.attn.b = B + 1
    with pytest.raises(UnsupportedMethodError, match=r"attn.kv has 20 outputs, which are no groups of a = 2, b = 4"):
        groups_of(block, block.roles.attentions[0])
