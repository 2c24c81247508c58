"""The block that ``docs/a-block-of-your-own.md`` adds, from the very text of that page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import black
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import adapter_models
from adapter_models import (
    AdapterSetup,
    Average,
    BatchSplit,
    BertAdapterModel,
    BlockSpec,
    InvalidCompositionError,
    Stack,
    UnsupportedMethodError,
    register_block,
)
from adapter_runtime import composition
from adapter_runtime.programs import blocks

PAGE = Path(__file__).parents[2] / "docs" / "a-block-of-your-own.md"
CONFIGS = (
    "seq_bn[reduction_factor=4]",
    "lora[r=2]",
    "ia3",
    "prefix_tuning[prefix_length=3,flat=True]",
    "loreft",
    "prompt_tuning[prompt_length=3]",
    "seq_bn_inv[reduction_factor=4]",
)


def blocks_of_code() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def page() -> Iterator[Any]:
    """The names of the file on the page; what it registers is gone afterwards."""
    known: list[Any] = [composition.BLOCKS, composition._HOLDS, blocks.BLOCK_SPECS, blocks._REGISTERED]
    before = [held.copy() for held in known]
    names: dict[str, Any] = {"__name__": "per_row"}
    exec(blocks_of_code()[0], names)
    yield SimpleNamespace(**names)
    for held, contents in zip(known, before, strict=True):
        held.clear()
        held.update(contents)


def randomised(model: Any, *names: str) -> Any:
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        for _, parameter in model.adapter_parameters(name):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def bert(config: str, *names: str) -> Any:
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    )
    adapter_models.init(model)
    for name in names:
        model.add_adapter(name, config)
    return randomised(model, *names)


def inputs(rows: int = 4, padding: str = "right") -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 40, (rows, 7), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask.flip(1) if padding == "left" else mask}


def test_it_is_one_file_of_public_names() -> None:
    source = blocks_of_code()[0]
    assert len(source.splitlines()) <= 80
    assert black.format_str(source, mode=black.Mode(line_length=100)) == source
    assert re.findall(r"^(?:from|import) (adapter\w*\S*)", source, re.MULTILINE) == ["adapter_models"]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("padding", ["left", "right"])
def test_each_row_is_that_of_its_adapter_alone(page: Any, config: str, padding: str) -> None:
    model, given = bert(config, "a", "b"), inputs(padding=padding)
    alone = []
    for name in "ab":
        model.set_active_adapters(name)
        alone.append(model(**given).logits)
    assert not torch.allclose(*alone)
    model.set_active_adapters(page.PerRow("a", "b", rows=[1, 0, 0, 1]))
    expected = torch.stack([alone[1][0], alone[0][1], alone[0][2], alone[1][3]])
    torch.testing.assert_close(model(**given).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_child_may_get_no_rows_and_blocks_may_stand_in_it(page: Any) -> None:
    model, given = bert("lora[r=2]", "a", "b", "c"), inputs(2)
    model.set_active_adapters(page.PerRow("a", Average("b", "c"), Stack("a"), rows=[1, 1]))
    found = model(**given).logits
    model.set_active_adapters(Average("b", "c"))
    torch.testing.assert_close(found, model(**given).logits)


def test_it_runs_beside_batch_split_with_the_same_outputs(page: Any) -> None:
    model, given = bert("seq_bn[reduction_factor=4]", "a", "b"), inputs()
    with AdapterSetup(page.PerRow("a", "b", rows=[0, 0, 0, 1])):
        found = model(**given).logits
    with AdapterSetup(BatchSplit("a", "b", batch_sizes=[3, 1])):
        torch.testing.assert_close(found, model(**given).logits)


def test_a_generation_with_beams_keeps_the_rows_apart(page: Any) -> None:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            pad_token_id=0,
        )
    )
    adapter_models.init(model)
    for name in "ab":
        model.add_adapter(name, "lora[r=2,alpha=20]")
    randomised(model, "a", "b")
    given = {name: value[:2] for name, value in inputs(padding="left").items()}

    def generated(setup: Any) -> torch.Tensor:
        model.set_active_adapters(setup)
        tokens: torch.Tensor = model.generate(
            **given, max_new_tokens=4, min_new_tokens=4, num_beams=2, do_sample=False
        )
        return tokens

    both = generated(page.PerRow("a", "b", rows=[1, 0]))
    assert torch.equal(both[0], generated("b")[0])
    assert torch.equal(both[1], generated("a")[1])


def test_heads_are_set_up_by_it_and_by_the_names_of_its_adapters(page: Any) -> None:
    torch.manual_seed(0)
    model: Any = BertAdapterModel(
        BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    )
    for name in "ab":
        model.add_adapter(name, "lora[r=2]")
        model.add_classification_head(name, num_labels=3)
    randomised(model, "a", "b")
    given, alone = inputs(), []
    for name in "ab":
        model.set_active_adapters(name)
        model.active_head = name
        alone.append(model(**given).logits)
    model.set_active_adapters(page.PerRow("a", "b", rows=[1, 0, 0, 1]))
    outputs = model(**given)
    found = [output.logits for output in outputs]
    torch.testing.assert_close(found[0], alone[0][1:3])
    torch.testing.assert_close(found[1], alone[1][[0, 3]])


def test_a_setup_is_saved_and_loaded(page: Any, tmp_path: Path) -> None:
    block = page.PerRow("a", Stack("b"), rows=[1, 0, 0, 1])
    model, given = bert("lora[r=2]", "a", "b"), inputs()
    model.set_active_adapters(block)
    model.save_adapter_setup(tmp_path, block)
    fresh = bert("lora[r=2]")
    loaded, _ = fresh.load_adapter_setup(str(tmp_path), set_active=True)
    assert loaded == block
    torch.testing.assert_close(fresh(**given).logits, model(**given).logits)


def test_other_numbers_of_rows_are_refused(page: Any) -> None:
    model = bert("seq_bn[reduction_factor=4]", "a", "b")
    model.set_active_adapters(page.PerRow("a", "b", rows=[1, 0]))
    with pytest.raises(InvalidCompositionError, match="PerRow divides 2 rows, but the batch has 4"):
        model(**inputs())


@pytest.mark.parametrize("rows", [[], [0, 2], [-1]])
def test_rows_of_nobody_are_refused(page: Any, rows: list[int]) -> None:
    with pytest.raises(InvalidCompositionError, match="numbers below 2"):
        page.PerRow("a", "b", rows=rows)


def test_a_name_that_is_taken_is_refused(page: Any) -> None:
    other = type("PerRow", (adapter_models.AdapterCompositionBlock,), {})
    with pytest.raises(InvalidCompositionError, match="There is a block PerRow already"):
        register_block(BlockSpec(other, rows=page.OwnedRows))


def test_the_node_on_the_page_joins_what_every_child_gives() -> None:
    source = next(code for code in blocks_of_code() if "class Median" in code)
    names: dict[str, Any] = {**vars(adapter_models), "torch": torch, "__name__": "median"}
    names |= {name: getattr(adapter_models, name) for name in ("Branch", "AdapterCompositionBlock", "Stack")}
    names |= {"BlockSpec": BlockSpec, "register_block": register_block}
    exec(source, names)
    median = names["Median"]
    for config in ("lora[r=2]", "seq_bn[reduction_factor=4]"):
        model = bert(config, "a", "b", "c")
        layer = model.bert.encoder.layer[0]
        place = layer.attention.self.query if config.startswith("lora") else layer.output
        state = [torch.randn(2, 3, width) for width in ((16,) if config.startswith("lora") else (24, 16))]
        given = []
        for name in "abc":
            model.set_active_adapters(name)
            given.append(place(*state))
        model.set_active_adapters(median("a", "b", "c"))
        middle = torch.stack(given).median(dim=0).values
        if config.startswith("lora"):  # (after a bottleneck, a norm follows the median)
            torch.testing.assert_close(place(*state), middle)
        assert model(**inputs()).logits.shape == (4, 2)
    prefixed = bert("prefix_tuning[prefix_length=3,flat=True]", "a", "b")
    with pytest.raises(UnsupportedMethodError, match="Median cannot be run with prefix tuning"):
        prefixed.set_active_adapters(median("a", "b"))
