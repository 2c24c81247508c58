"""`AutoAdapterModel`, and the checkpoints that models with flexible heads take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForQuestionAnswering,
)
from transformers.models.auto.configuration_auto import model_type_to_module_name

from adapter_models import ADAPTER_MODEL_MAPPING, AutoAdapterModel, BertAdapterModel, LlamaAdapterModel
from adapter_runtime.errors import UnsupportedModelError
from conformance.tiny import randomise, tiny_config

TOKENS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(2))


def test_the_class_follows_from_the_config() -> None:
    assert type(AutoAdapterModel.from_config(tiny_config("bert"))) is BertAdapterModel
    assert type(AutoAdapterModel.from_config(tiny_config("llama"))) is LlamaAdapterModel


def test_the_mapping_goes_from_config_classes_to_model_classes() -> None:
    assert BertConfig in ADAPTER_MODEL_MAPPING
    assert type("OwnConfig", (BertConfig,), {}) not in ADAPTER_MODEL_MAPPING
    assert ADAPTER_MODEL_MAPPING[LlamaConfig] is LlamaAdapterModel
    assert set(ADAPTER_MODEL_MAPPING) >= {BertConfig, LlamaConfig}
    with pytest.raises(KeyError):
        ADAPTER_MODEL_MAPPING[int]


def test_a_type_without_generated_code_is_named_with_the_way_out() -> None:
    config = type("NobodyConfig", (BertConfig,), {"model_type": "nobody"})()
    with pytest.raises(UnsupportedModelError, match="adapter-codegen add-model nobody"):
        AutoAdapterModel.from_config(config)


@pytest.mark.parametrize("model_type", ["musicgen", "musicgen_melody"])
def test_a_base_model_of_a_part_takes_the_config_of_the_part_or_of_the_whole(tmp_path: Path, model_type: str) -> None:
    part = tiny_config(model_type)
    model = AutoAdapterModel.from_config(part)
    assert type(model).config_class is type(part) is not CONFIG_MAPPING[model_type]
    model.add_adapter("a", config="lora", set_active=True)
    model.save_pretrained(tmp_path)
    again, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(again) is type(model)
    assert "a" in again.adapters_config
    whole = CONFIG_MAPPING[model_type](decoder=part.to_dict())
    assert AutoAdapterModel.from_config(whole).config.to_dict() == whole.decoder.to_dict()


@pytest.mark.parametrize("model_type", ["clip_vision_model", "musicgen_melody_decoder"])
def test_a_part_of_a_whole_model_is_known_only_where_it_has_the_base_model(model_type: str) -> None:
    config_class, outer = CONFIG_MAPPING[model_type], model_type_to_module_name(model_type)
    taken = ADAPTER_MODEL_MAPPING[CONFIG_MAPPING[outer]].config_class
    found = ADAPTER_MODEL_MAPPING.get(config_class)
    assert (found is ADAPTER_MODEL_MAPPING[CONFIG_MAPPING[outer]]) == (taken is config_class)


def test_the_class_itself_makes_no_models() -> None:
    with pytest.raises(OSError, match="from_pretrained"):
        AutoAdapterModel()


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_a_checkpoint_of_a_base_model_is_taken(tmp_path: Path, model_type: str) -> None:
    base = AutoModel.from_config(tiny_config(model_type)).eval()
    randomise(base)
    base.save_pretrained(tmp_path)
    model, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not model.heads
    with torch.no_grad():
        assert torch.equal(model(TOKENS)[0], base(TOKENS)[0])


def test_a_static_head_becomes_the_flexible_head_default(tmp_path: Path) -> None:
    names = {0: "bad", 1: "so so", 2: "good"}
    static = BertForSequenceClassification(
        tiny_config("bert", id2label=names, label2id={v: k for k, v in names.items()})
    )
    randomise(static)
    static.eval().save_pretrained(tmp_path)
    model, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.active_head == "default"
    assert model.get_labels_dict() == names
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        ours, theirs = model(TOKENS, labels=labels), static(TOKENS, labels=labels)
    assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-6)
    assert_close(ours.loss, theirs.loss, rtol=0, atol=1e-6)


def test_what_was_converted_is_saved_as_a_flexible_head(tmp_path: Path) -> None:
    static = BertForMaskedLM(tiny_config("bert"))
    randomise(static)
    static.tie_weights()
    static.save_pretrained(tmp_path / "static")
    model = AutoAdapterModel.from_pretrained(tmp_path / "static")
    model.save_pretrained(tmp_path / "flexible")
    assert json.loads((tmp_path / "flexible" / "config.json").read_text())["architectures"] == ["BertAdapterModel"]
    again = AutoAdapterModel.from_pretrained(tmp_path / "flexible")
    with torch.no_grad():
        logits = static.eval()(TOKENS).logits
        assert_close(model(TOKENS).logits, logits, rtol=0, atol=1e-5)
        assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


def test_a_class_that_keeps_its_base_model_under_another_name_is_taken(tmp_path: Path) -> None:
    static = LlamaForQuestionAnswering(tiny_config("llama")).eval()
    randomise(static)
    static.save_pretrained(tmp_path)
    model, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        assert_close(model(TOKENS).start_logits, static(TOKENS).start_logits, rtol=0, atol=1e-6)


def test_a_class_whose_heads_have_no_counterpart_gives_its_base_model(tmp_path: Path) -> None:
    static = BertForPreTraining(tiny_config("bert")).eval()
    randomise(static)
    static.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(model(TOKENS).last_hidden_state, static.bert(TOKENS).last_hidden_state)


@pytest.mark.parametrize("cls", [AutoAdapterModel, BertAdapterModel])
@pytest.mark.parametrize("static", [False, True], ids=["from a base model", "from a static head"])
def test_arguments_of_from_pretrained_reach_config_and_model(tmp_path: Path, cls: type, static: bool) -> None:
    config = tiny_config("bert")
    (BertForSequenceClassification(config) if static else AutoModel.from_config(config)).save_pretrained(tmp_path)
    model = cls.from_pretrained(
        tmp_path, dtype=torch.bfloat16, attn_implementation="eager", hidden_dropout_prob=0.4, local_files_only=True
    )
    assert model.dtype is torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert model.config.hidden_dropout_prob == 0.4


def test_a_config_given_is_left_as_it_is(tmp_path: Path) -> None:
    BertForSequenceClassification(tiny_config("bert")).save_pretrained(tmp_path)
    config = BertConfig.from_pretrained(tmp_path)
    before = config.to_dict()
    model = BertAdapterModel.from_pretrained(tmp_path, config=config)
    assert model.active_head == "default"
    assert config.to_dict() == before
