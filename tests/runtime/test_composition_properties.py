"""Random nestings of blocks, methods and batch sizes: each row of the output is what its own path gives alone.

The oracle knows nothing of how blocks run. It unfolds a composition into the stack of adapters that each row of the output
goes through, and runs that stack on that row, by itself, through the plain way of one block.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from adapter_runtime.composition import AdapterCompositionBlock, BatchSplit, MultiTask, Parallel, Stack
from runtime_models import adapted, randomise

NAMES = ("a", "b", "c", "d")
LENGTH = 6

# What the adapters a to d are. Mixed methods stand in one block; lengths of prefixes differ.
METHODS: dict[str, tuple[str, str, str, str]] = {
    "bottlenecks": (
        "seq_bn[reduction_factor=4]",
        "double_seq_bn[reduction_factor=4]",
        "par_bn",
        "compacter[reduction_factor=8]",
    ),
    "low rank": ("lora[r=2]", "lora[r=4,alpha=2,attn_matrices=['q','k']]", "lora[r=3,output_lora=False]", "dora[r=2]"),
    "factors": ("ia3", "ia3", "ia3", "ia3"),
    "prefixes": tuple(f"prefix_tuning_flat[prefix_length={length}]" for length in (2, 5, 1, 3)),  # type: ignore[dict-item]
    "edits": ("loreft", "noreft", "direft", "loreft[prefix_positions=1,suffix_positions=2]"),
    "invertible": ("seq_bn_inv", "seq_bn", "double_seq_bn_inv", "seq_bn_inv"),
    "mixed": ("seq_bn", "lora[r=2]", "prefix_tuning_flat[prefix_length=3]", "loreft"),
    "unions": ("unipelt[bottleneck_size=8]", "mam[bottleneck_size=8]", "seq_bn|lora[r=2]", "ia3"),
}
# LoRA that divides by norms, or that scales, stands in no stack with other LoRA.
UNSTACKED = ("low rank", "unions")


@st.composite
def blocks(draw: st.DrawFn, rows: int, depth: int, can_stack: bool) -> str | AdapterCompositionBlock:
    """A name, or a block that divides `rows` rows."""
    kinds = ["name"] if depth == 0 else ["name", "batch"] + ["stack"] * can_stack
    kind = draw(st.sampled_from(kinds))
    if kind == "name":
        return draw(st.sampled_from(NAMES))
    if kind == "stack":
        count = draw(st.integers(1, 3))
        return Stack(*(draw(blocks(rows, depth - 1, can_stack)) for _ in range(count)))
    sizes = _sizes(draw, rows)
    return BatchSplit(*(draw(blocks(size, depth - 1, can_stack)) for size in sizes), batch_sizes=sizes)


def _sizes(draw: st.DrawFn, rows: int) -> list[int]:
    cuts = sorted(draw(st.sets(st.integers(1, rows - 1), max_size=2))) if rows > 1 else []
    return [stop - start for start, stop in zip([0, *cuts], [*cuts, rows], strict=True)]


@st.composite
def setups(draw: st.DrawFn, rows: int, can_stack: bool) -> AdapterCompositionBlock:
    """A whole setup, perhaps with copies of the batch or with tasks."""
    kind = draw(st.sampled_from(["plain", "parallel", "tasks"]))
    if kind == "plain":
        return Stack(draw(blocks(rows, 2, can_stack)))
    count = draw(st.integers(2, 3))
    if kind == "tasks":
        inner: AdapterCompositionBlock = MultiTask(*(draw(blocks(1, 0, False)) for _ in range(count)))
    else:
        inner = Parallel(*(draw(blocks(rows, 1, can_stack)) for _ in range(count)))
    before = [draw(st.sampled_from(NAMES)) for _ in range(draw(st.integers(0, 1)))] if can_stack else []
    return Stack(*before, inner) if before else inner


@functools.cache
def model_with(kind: str, methods: str) -> PreTrainedModel:
    model = adapted(kind)
    for seed, (name, config) in enumerate(zip(NAMES, METHODS[methods], strict=True)):
        model.add_adapter(name, config)
        randomise(model, name, seed + 1)
    return model


def path(block: str | AdapterCompositionBlock, row: int, rows: int, tasks: Sequence[int]) -> list[str]:
    """The adapters that one row of the output goes through, in order."""
    if isinstance(block, str):
        return [block]
    if isinstance(block, Stack):
        return [name for child in block for name in path(child, row, rows, tasks)]
    if isinstance(block, Parallel):
        return path(block[row // rows], row % rows, rows, tasks)
    if isinstance(block, MultiTask):
        return path(block[tasks[row]], row, rows, tasks)
    assert isinstance(block, BatchSplit)
    start = 0
    for child, size in zip(block, block.batch_sizes, strict=True):
        if start <= row < start + size:
            return path(child, row - start, size, tasks)
        start += size
    raise AssertionError("no child has the row")


def logits(model: PreTrainedModel, setup: Any, **inputs: Any) -> Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(
    ("kind", "methods"),
    # Llama's values are narrower than its queries, which no stack of LoRA can run.
    [("bert_lm", name) for name in METHODS] + [("llama_lm", name) for name in ("bottlenecks", "prefixes", "edits")],
)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_each_row_is_what_its_path_gives_alone(kind: str, methods: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4), label="rows")
    setup = data.draw(setups(rows, methods not in UNSTACKED), label="setup")
    tasks = data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows), label="tasks")
    model = model_with(kind, methods)
    generator = torch.Generator().manual_seed(rows)
    tokens = torch.randint(3, 99, (rows, LENGTH), generator=generator)
    mask = torch.ones(rows, LENGTH, dtype=torch.long)
    mask[0, -2:] = 0
    needed = {"task_ids": torch.tensor(tasks)} if _has_tasks(setup) else {}
    together = logits(model, setup, input_ids=tokens, attention_mask=mask, **needed)
    assert len(together) == rows * setup.parallel_channels
    for row, given_row in enumerate(together):
        names = path(setup, row, rows, tasks * setup.parallel_channels)
        source = row % rows
        alone = logits(
            model, Stack(*names), input_ids=tokens[source : source + 1], attention_mask=mask[source : source + 1]
        )
        real = mask[source].bool()
        torch.testing.assert_close(given_row[real], alone[0][real], rtol=1e-4, atol=1e-4, msg=f"the row of {names}")


def _has_tasks(block: AdapterCompositionBlock) -> bool:
    return isinstance(block, MultiTask) or any(
        _has_tasks(child) for child in block if isinstance(child, AdapterCompositionBlock)
    )
