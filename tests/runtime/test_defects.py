"""Defects of `adapters` 1.3.0 that no other file is about, and the index of all of them.

``docs/design/0010-defects-of-adapters.md`` says for every defect which test would catch it.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertLMHeadModel, PreTrainedModel

import adapter_runtime
from adapter_models import init
from adapter_runtime.composition import BatchSplit, Parallel, Stack
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.methods.bottleneck.config import SeqBnConfig
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.reft.config import DiReftConfig, NoReftConfig
from runtime_models import BERT, adapted, randomise, upstream

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs/design/0010-defects-of-adapters.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
IDS = torch.randint(3, 99, (2, 7), generator=torch.Generator().manual_seed(3))


def active(kind: str, config: str) -> PreTrainedModel:
    model = adapted(kind)
    model.add_adapter("a", config)
    randomise(model, "a")
    model.set_active_adapters("a")
    return model


def test_defect_1_the_cache_of_llama_fills_and_generation_with_it_is_upstreams() -> None:
    settings = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    expected = upstream("llama_lm").generate(IDS, **settings)
    model = adapted("llama_lm")
    assert model(IDS, use_cache=True).past_key_values.get_seq_length() == 7
    assert torch.equal(model.generate(IDS, **settings, use_cache=True), expected)
    model = active("llama_lm", "double_seq_bn|lora")
    without = model.generate(IDS, **settings, use_cache=False)
    assert torch.equal(model.generate(IDS, **settings, use_cache=True), without)
    assert not torch.equal(without, expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (NoReftConfig(), DiReftConfig()),
        (SeqBnConfig(phm_dim=2), SeqBnConfig(phm_dim=2, phm_layer=True)),
        (LoRAConfig(use_gating=1), LoRAConfig(use_gating=True)),
    ],
    ids=["noreft", "phm", "1 and true"],
)
def test_defect_6_a_second_adapter_leaves_the_config_of_the_first_alone(
    first: AdapterConfig, second: AdapterConfig, tmp_path: Path
) -> None:
    model = adapted("bert")
    model.add_adapter("a", first)
    model.add_adapter("b", second)
    assert model.adapters_config.get("a").to_dict() == first.to_dict()
    model.save_pretrained(tmp_path)
    stored = BertConfig.from_pretrained(tmp_path).adapters
    configs = {name: stored["config_map"][key] for name, key in stored["adapters"].items()}
    assert repr(configs["a"]) == repr(_as_read(first)) and repr(configs["b"]) == repr(_as_read(second))


def _as_read(config: AdapterConfig) -> object:
    return json.loads(json.dumps(config.to_dict(), sort_keys=True))


@pytest.mark.parametrize("config", ["loreft", "noreft", "direft"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_defect_14_reft_leaves_attention_weights_alone(kind: str, config: str) -> None:
    model = active(kind, config)
    found = model(IDS, output_attentions=True, output_hidden_states=True)
    bare = upstream(kind)(IDS, output_attentions=True, output_hidden_states=True)
    assert [weights.shape for weights in found.attentions] == [weights.shape for weights in bare.attentions]
    assert_close(found.attentions[0], bare.attentions[0])  # the first edit comes after them
    assert [states.shape for states in found.hidden_states] == [states.shape for states in bare.hidden_states]
    assert torch.equal(found[0], model(IDS)[0])


@pytest.mark.parametrize("config", ["prefix_tuning", "lora", "double_seq_bn"])
def test_defect_19_a_bert_that_is_a_decoder_uses_its_cache(config: str) -> None:
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(**BERT, is_decoder=True)).eval()
    init(model)
    model.add_adapter("a", config)
    randomise(model, "a")
    model.set_active_adapters("a")
    whole = model(IDS).logits
    first = model(IDS[:, :4], use_cache=True)
    rest = model(IDS[:, 4:], past_key_values=first.past_key_values, use_cache=True)
    assert_close(torch.cat([first.logits, rest.logits], dim=1), whole, atol=1e-5, rtol=1e-4)


def test_defect_20_parallel_takes_positions_for_each_row() -> None:
    model = adapted("llama")
    positions = torch.arange(7).expand(2, 7) + torch.tensor([[0], [5]])
    outputs = []
    for name in "ab":
        model.add_adapter(name, "lora")
        randomise(model, name, seed=ord(name))
        model.set_active_adapters(name)
        outputs.append(model(IDS, position_ids=positions)[0])
    model.set_active_adapters(Parallel("a", "b"))
    assert_close(model(IDS, position_ids=positions)[0], torch.cat(outputs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["a.b", "keys", "items", "training", "forward", "weight", "loras", ""])
@pytest.mark.parametrize(
    "config", ["seq_bn", "lora", "prefix_tuning", "loreft", "prompt_tuning", "seq_bn_inv", "vera"]
)
def test_defect_24_a_name_can_be_used_or_leaves_no_ghost(name: str, config: str) -> None:
    model = adapted("bert")
    before = [(key, type(module)) for key, module in model.named_modules()]
    try:
        model.add_adapter(name, config, set_active=True)
    except ValueError:
        assert name not in model.adapters_config
        assert model.active_adapters is None
        assert [(key, type(module)) for key, module in model.named_modules()] == before
    else:
        assert "." not in name and name
        model(IDS)
        model.delete_adapter(name)
        assert [(key, type(module)) for key, module in model.named_modules()] == before


@pytest.mark.parametrize(
    ("setup", "left"),
    [
        (Stack("a", "b"), Stack("b")),
        (Stack("a", Stack("a", "b")), None),
        (BatchSplit("a", "b", batch_sizes=[1, 1]), None),
        (Stack("b", "c"), Stack("b", "c")),
    ],
    ids=str,
)
def test_defect_25_a_setup_never_names_a_deleted_adapter(setup: object, left: object) -> None:
    model = adapted("bert")
    for name in "abc":
        model.add_adapter(name, "seq_bn")
    model.set_active_adapters(setup)
    model.delete_adapter("a")
    assert model.active_adapters == left
    model(IDS)


def test_defect_36_there_is_no_code_that_unpacks_archives_or_unpickles() -> None:
    """What is fetched comes as single files from `huggingface_hub`, and tensors are read with ``weights_only``."""
    unsafe = re.compile(r"\b(tarfile|ZipFile\(|unpack_archive|extractall|pickle\.loads?\(|weights_only\s*=\s*False)")
    sources = sorted(Path(adapter_runtime.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    assert [path.name for path in sources if unsafe.search(path.read_text(encoding="utf-8"))] == []
    loads = [path for path in sources if "torch.load(" in path.read_text(encoding="utf-8")]
    assert loads
    for path in loads:
        for call in re.findall(r"torch\.load\([^\n]*", path.read_text(encoding="utf-8")):
            assert "weights_only=True" in call, path


# The index


def indexed() -> list[tuple[str, str]]:
    return TEST.findall(INDEX.read_text(encoding="utf-8"))


def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), indexed(), ids=lambda part: part.rpartition("/")[2])
def test_the_index_names_a_test_that_there_is(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert name in functions(path)


def test_the_index_has_a_row_with_a_test_for_each_defect() -> None:
    rows = [line.split("|") for line in INDEX.read_text(encoding="utf-8").splitlines() if re.match(r"\| (§?\d)", line)]
    numbers = {re.match(r"[§\d.]*\d", row[1].strip())[0] for row in rows}  # type: ignore[index]
    assert numbers == {*map(str, range(1, 37)), *(f"§5.6.{number}" for number in range(1, 7))}
    assert [row[1:3] for row in rows if not TEST.search(row[3])] == []
