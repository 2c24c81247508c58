"""Blocks of adapters at one projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.composition import Average, BatchSplit, Fuse, Parallel, Split, Stack
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.lora.config import IA3Config, LoRAConfig
from lora_projections import ADDING, FAMILY, PARTS, I, P, active, adapt


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, I, generator=torch.Generator().manual_seed(3))


def children(layer: Any, x: torch.Tensor, count: int = 2) -> list[torch.Tensor]:
    return [active(layer, f"a{index}")(x) for index in range(count)]


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("parts", [PARTS["whole"], PARTS["q, v"]], ids=["whole", "parts"])
def test_blocks_divide_the_batch_and_the_sequence(name: str, parts: Any, x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, P), parts, FAMILY[name], FAMILY[name])
    first, second = children(layer, x)
    assert_close(active(layer, BatchSplit("a0", "a1", batch_sizes=[1, 1]))(x), torch.cat([first[:1], second[1:]]))
    assert_close(active(layer, Parallel("a0", "a1"))(torch.cat([x, x])), torch.cat([first, second]))
    assert_close(active(layer, Split("a0", "a1", splits=[2, 3]))(x), torch.cat([first[:, :2], second[:, 2:]], 1))
    flat = active(layer, BatchSplit("a0", "a1", batch_sizes=[1, 1]))(x.flatten(0, 1))
    assert_close(flat, torch.cat([first[:1], second[1:]]).flatten(0, 1))


@pytest.mark.parametrize("name", FAMILY)
def test_defect_9_an_average_is_the_weighted_sum(name: str, x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], FAMILY[name], FAMILY[name])
    first, second = children(layer, x)
    assert_close(active(layer, Average("a0", "a1"))(x), (first + second) / 2)
    assert_close(active(layer, Average("a0", "a1", weights=[1, 3]))(x), first / 4 + second * 3 / 4)
    same = active(layer, Average("a0", "a0"))(x)
    assert_close(same, first)
    bare = active(layer, None)(x)
    block = Average("a0", "a1", weights=[2.0, -0.5], normalize_weights=False)
    assert_close(active(layer, block)(x), bare + 2 * (first - bare) - 0.5 * (second - bare), atol=1e-5, rtol=1e-5)
    assert_close(active(layer, Average("a0", "elsewhere"))(x), (first + bare) / 2)


@pytest.mark.parametrize("name", ADDING)
def test_a_stack_passes_each_update_through_the_next(name: str, x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, I), [(0, I)], FAMILY[name], FAMILY["lora"])
    bare = layer(x)
    first = active(layer, "a0")(x) - bare
    second = layer.loras["a1"]
    update = first @ (3 * second.lora_B @ second.lora_A).T
    assert_close(active(layer, Stack("a0", "a1"))(x), bare + update, atol=1e-5, rtol=1e-5)
    assert_close(active(layer, Stack("a0", "elsewhere"))(x), bare + first, atol=1e-5, rtol=1e-5)
    block = Stack("a0", BatchSplit("a1", "elsewhere", batch_sizes=[1, 1]))
    assert_close(active(layer, block)(x), bare + torch.cat([update[:1], first[1:]]), atol=1e-5, rtol=1e-5)
    block = Stack(BatchSplit("a0", "elsewhere", batch_sizes=[1, 1]), "a1")
    assert_close(active(layer, block)(x)[0], (bare + update)[0], atol=1e-5, rtol=1e-5)


def test_a_gate_in_a_stack_reads_the_input_of_the_projection(x: torch.Tensor) -> None:
    gated = LoRAConfig(r=2, use_gating=True)
    layer = adapt(nn.Linear(I, I), [(0, I)], gated, gated)
    update = x
    for index in range(2):
        adapter = layer.loras[f"a{index}"]
        gate = torch.sigmoid(adapter.gate(x)).mean(1, keepdim=True)
        update = gate * (update @ adapter.lora_A.T @ adapter.lora_B.T)
    bare = layer(x)
    assert_close(active(layer, Stack("a0", "a1"))(x), bare + update)


def test_factors_in_a_stack_multiply(x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], IA3Config(), IA3Config())
    bare, factors = layer(x), [layer.loras[name].lora_B[:, 0] for name in ("a0", "a1")]
    assert_close(active(layer, Stack("a0", "a1"))(x), bare * factors[0] * factors[1])


@pytest.mark.parametrize(
    ("block", "configs", "message"),
    [
        pytest.param(Stack("a0", "a1"), ["lora", "ia3"], "add and that scale", id="sum and product"),
        pytest.param(Stack("a0", "a1"), ["lora", "lora"], "as many inputs as outputs", id="widths that do not chain"),
        pytest.param(Stack("a0", "a1"), ["dora", "lora"], "DoRA rescales", id="a magnitude behind an update"),
        pytest.param(Stack(Fuse("a0", "a1")), ["lora", "lora"], "Fuse cannot be run with LoRA", id="a fusion"),
    ],
)
def test_blocks_that_mean_nothing_at_a_projection_are_refused(block: Any, configs: list[str], message: str) -> None:
    layer = adapt(nn.Linear(I, P), PARTS["whole"], *(FAMILY[name] for name in configs))
    with pytest.raises(UnsupportedMethodError, match=message):
        active(layer, block)


def test_a_merged_adapter_does_not_act_on_the_rows_of_others(x: torch.Tensor) -> None:
    layer = adapt(nn.Linear(I, I), [(0, I)], LoRAConfig(r=2), LoRAConfig(r=2))
    bare, both = layer(x), Parallel("a0", "a1")
    for block in (both, Stack("a0", "a1"), Parallel("a0", "elsewhere")):
        active(layer, block)
        with pytest.raises(UnsupportedMethodError, match="stands in a block with others"):
            layer.merge("a0")
    assert torch.equal(active(layer, None)(x), bare)
    expected = active(layer, "a0")(x)
    second = active(layer, "a1")(x) - bare
    active(layer, None).merge("a0")
    layer.activate(None, frozenset())
    with AdapterSetup(both), pytest.raises(UnsupportedMethodError, match="stands in a block with others"):
        layer(x)
    with AdapterSetup("a0"):
        assert_close(layer(x), expected)
    with AdapterSetup("a1"):  # the merged one is a part of the weights
        assert_close(layer(x), expected + second)
