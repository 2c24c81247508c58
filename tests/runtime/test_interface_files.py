"""Files of models with an interface: those of `adapters`, and ours."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertForMaskedLM,
    PhiForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

import adapter_models
from adapter_runtime import init
from adapter_runtime.errors import AdapterFileError, AdapterMismatchError, UnsupportedModelError
from adapter_runtime.model.interface.declaration import AdapterModelInterface
from adapter_runtime.model.interface.loading import load_model
from interface_models import BART, BART_PARTS, QWEN2, TINY, add, bart, logits, qwen2
from runtime_models import adapted

FIXTURES = Path(__file__).parent / "fixtures" / "interface"
CASES = sorted(path.parent for path in FIXTURES.glob("*/*/expected.safetensors"))
CLASSES = {
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "gemma2": Gemma2ForCausalLM,
    "gemma3_text": Gemma3ForCausalLM,
    "phi": PhiForCausalLM,
    "modernbert": ModernBertForMaskedLM,
}


@pytest.mark.parametrize("folder", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_of_interface_models_load_and_compute_the_same(folder: Path) -> None:
    model = CLASSES[folder.parent.name].from_pretrained(folder.parent / "base", attn_implementation="eager").eval()
    expected = load_file(folder / "expected.safetensors")
    given = {"input_ids": expected["input_ids"], "attention_mask": expected["attention_mask"]}
    real = given["attention_mask"].bool()
    init(model, interface=AdapterModelInterface.load(folder))
    assert_close(
        logits(model, given["input_ids"], attention_mask=given["attention_mask"])[real], expected["base"][real]
    )
    assert model.load_adapter(folder, set_active=True) == "a"
    changed = logits(model, given["input_ids"], attention_mask=given["attention_mask"])
    assert_close(changed[real], expected["logits"][real], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(changed[real], expected["base"][real], atol=1e-3)


def test_there_are_files_of_all_kinds() -> None:
    assert {path.parent.name for path in CASES} == set(CLASSES)
    assert len(CASES) >= 13


def test_the_interface_is_written_beside_the_adapter(tmp_path: Path) -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.save_adapter(tmp_path, "a")
    document = json.loads((tmp_path / "adapter_interface.json").read_text())
    assert document["model_type"] == "qwen2"
    assert document["interface"] == QWEN2.to_dict()
    assert len(document["interface"]) == 18
    assert document["version"].startswith("adapter-codegen.")
    assert AdapterModelInterface.load(tmp_path) == QWEN2
    generated = adapted("llama")
    generated.add_adapter("a", "seq_bn")
    generated.save_adapter(tmp_path / "generated", "a")
    assert not (tmp_path / "generated" / "adapter_interface.json").exists()


def test_an_adapter_comes_back_with_the_same_outputs(tmp_path: Path) -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn|lora")
    model.set_active_adapters("a")
    model.save_adapter(tmp_path, "a")
    fresh = qwen2(None)
    init(fresh, interface=AdapterModelInterface.load(tmp_path))
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(logits(fresh), logits(model))


@pytest.mark.usefixtures("nothing_generated")
@pytest.mark.parametrize("model_class", [Qwen2ForCausalLM, AutoModelForCausalLM])
def test_load_model_finds_the_interface_and_the_weights(tmp_path: Path, model_class: Any) -> None:
    model = qwen2()
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, model_class)
    assert loaded.adapters_base.adapter_interface == QWEN2
    assert type(loaded).__name__ == "Qwen2ForCausalLM"
    loaded.set_active_adapters("a")
    assert torch.equal(logits(loaded), logits(model))
    assert torch.equal(logits(pickle.loads(pickle.dumps(loaded))), logits(model))
    (tmp_path / "adapter_interface.json").unlink()
    with pytest.raises(UnsupportedModelError, match="AdapterModelInterface"):
        load_model(tmp_path, model_class)
    assert load_model(tmp_path, model_class, QWEN2).adapters_base.adapter_interface == QWEN2


def test_load_model_of_generated_classes_needs_no_interface(tmp_path: Path) -> None:
    model = adapted("llama_lm")
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, LlamaForCausalLM, attn_implementation="eager")
    loaded.set_active_adapters("a")
    assert torch.equal(logits(loaded), logits(model))
    flexible = load_model(tmp_path, adapter_models.LlamaAdapterModel)
    assert "a" in flexible.adapters_config
    with pytest.raises(UnsupportedModelError, match="needs no interface"):
        load_model(tmp_path, adapter_models.LlamaAdapterModel, QWEN2)


def test_interfaces_of_parts_are_written_and_read(tmp_path: Path) -> None:
    model = bart()
    init(model, interface=BART_PARTS)
    add(model, "a", "double_seq_bn")
    model.set_active_adapters("a")
    model.save_adapter(tmp_path, "a")
    fresh = bart()
    init(fresh, interface=AdapterModelInterface.load(tmp_path))
    assert fresh.adapters_base.adapter_interface == BART_PARTS
    fresh.load_adapter(tmp_path, set_active=True)
    assert torch.equal(logits(fresh), logits(model))
    other = bart()
    init(other, interface={"encoder": BART})
    with pytest.raises(AdapterMismatchError, match="describes the parts"):
        other.load_adapter(tmp_path)


def test_an_adapter_of_another_interface_is_refused(tmp_path: Path) -> None:
    model = qwen2()
    add(model, "a", "seq_bn")
    model.save_adapter(tmp_path, "a")
    other = qwen2(dataclasses.replace(QWEN2, layer_pre_ffn="mlp"))
    with pytest.raises(
        AdapterMismatchError, match="layer_pre_ffn is 'post_attention_layernorm'; in this model it is 'mlp'"
    ):
        other.load_adapter(tmp_path)
    assert not other.has_adapters()
    assert other.load_adapter(tmp_path, strict=False) == "a"
    fewer = qwen2(dataclasses.replace(QWEN2, adapter_methods=["bottleneck"]))
    assert fewer.load_adapter(tmp_path) == "a"


@pytest.mark.parametrize(
    ("interface", "config", "message"),
    [
        (QWEN2, "seq_bn", None),
        (dataclasses.replace(QWEN2, layer_ln_1="input_layernorm"), "lora", None),
        (dataclasses.replace(QWEN2, layer_ln_1="input_layernorm"), "seq_bn", "layer_ln_1"),
        (dataclasses.replace(QWEN2, layer_pre_ffn=None), "seq_bn", "gives no layer_pre_ffn"),
    ],
)
def test_generated_classes_take_files_that_mean_the_same(
    tmp_path: Path, interface: AdapterModelInterface, config: str, message: str | None
) -> None:
    torch.manual_seed(0)
    generated = LlamaForCausalLM(LlamaConfig(**TINY)).eval()
    described = copy.deepcopy(generated)
    init(described, interface=interface)
    init(generated)
    add(described, "a", config)
    described.set_active_adapters("a")
    described.save_adapter(tmp_path, "a")
    if message is not None:
        with pytest.raises(AdapterMismatchError, match=message):
            generated.load_adapter(tmp_path)
        return
    generated.load_adapter(tmp_path, set_active=True)
    assert_close(logits(generated), logits(described))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("{}", "fields of an interface"),
        ('{"interface": {"model_layer": "x"}}', "no field 'model_layer'. Did you mean 'model_layers'"),
        ('{"interface": {"model_layers": "x"}}', "adapter_methods, model_embeddings"),
        ('{"interfaces": {"encoder": 3}}', "fields of an interface"),
    ],
)
def test_a_damaged_interface_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "adapter_interface.json").write_text(content)
    with pytest.raises(AdapterFileError, match=message):
        AdapterModelInterface.load(tmp_path)
    with pytest.raises(AdapterFileError, match=r"has no adapter_interface\.json"):
        AdapterModelInterface.load(tmp_path / "..")
