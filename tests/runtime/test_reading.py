"""Checkpoints of upstream's classes, read into adapter models: names by the class that wrote them, and what is said of the rest."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.core_model_loading import PermuteForRope, WeightConverter

import adapter_models
from adapter_models import AutoAdapterModel, init, load_model
from adapter_runtime.contract.registry import type_of_adapter_model
from adapter_runtime.files.api.checkpoints import _tied_in, reader_of
from conformance.tiny import tiny_config
from runtime_models import randomise

WRITER = "Qwen2VLForConditionalGeneration"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose names only the class that wrote it renames."""
    getattr(transformers, WRITER)(tiny_config("qwen2_vl")).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(None, id="no class is named"),
        pytest.param("BertForMaskedLM", id="a class that names tensors as its model type does"),
        pytest.param("GPTNeoXForCausalLM", id="a class of another model type, with names of its own"),
        pytest.param("SomeoneElsesModel", id="a class that upstream does not have"),
    ],
)
def test_a_checkpoint_without_names_of_its_own_is_read_by_the_class_itself(architecture: str | None) -> None:
    cls = adapter_models.BertAdapterModel
    assert reader_of(cls, architecture) is cls


def test_a_backbone_with_the_names_of_its_base_model_is_no_reader() -> None:
    """The base model renames them; renamed twice, `cls_token` would be `embeddings.embeddings.cls_token`."""
    cls = adapter_models.Tipsv2VisionAdapterModel
    assert reader_of(cls, "Tipsv2VisionBackbone") is cls


def test_a_class_with_names_of_its_own_is_who_reads() -> None:
    cls = adapter_models.GPTNeoXAdapterModel
    reader = reader_of(cls, "GPTNeoXForCausalLM")
    assert (reader.__name__, reader.__bases__) == ("GPTNeoXForCausalLM", (cls,))


@pytest.mark.parametrize("loader", [adapter_models.Qwen2VLAdapterModel, AutoAdapterModel])
def test_what_was_read_is_an_adapter_model_like_any_other(loader: type, folder: Path) -> None:
    model: PreTrainedModel = loader.from_pretrained(folder)  # type: ignore[attr-defined]
    assert type(model) is adapter_models.Qwen2VLAdapterModel
    assert type(pickle.loads(pickle.dumps(model))) is type(model)
    model.save_pretrained(folder / "again")
    again, info = loader.from_pretrained(folder / "again", output_loading_info=True)  # type: ignore[attr-defined]
    assert again.config.architectures == ["Qwen2VLAdapterModel"]
    assert not any(info.values())


def test_the_config_of_the_caller_stays_as_it_is(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    before = config.to_dict()
    AutoAdapterModel.from_pretrained(folder, config=config)
    assert config.to_dict() == before


def test_what_is_left_out_is_named_where_no_head_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transformers.PvtForImageClassification(tiny_config("pvt")).save_pretrained(tmp_path)
    _, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True)
    assert info["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    (told,) = (record.getMessage() for record in caplog.records if "Its head is not loaded" in record.getMessage())
    assert "PvtForImageClassification" in told
    assert "add_..._head" not in told  # the model has none


@pytest.mark.parametrize(
    "upstream",
    [
        transformers.PLBartForCausalLM,
        transformers.Kosmos2_5ForConditionalGeneration,  # the language model in it ties it
    ],
    ids=lambda cls: cls.__name__,
)
def test_a_head_that_is_tied_and_in_no_file_is_named_too(
    upstream: type[PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream(tiny_config(upstream.config_class.model_type)).save_pretrained(tmp_path)
    model, info = AutoAdapterModel.from_pretrained(tmp_path, output_loading_info=True, allow_random_parts=True)
    assert not info["unexpected_keys"] and not getattr(model.config, "prediction_heads", None)
    (told,) = (record.getMessage() for record in caplog.records if "Its head is not loaded" in record.getMessage())
    assert upstream.__name__ in told


@pytest.mark.parametrize(
    "upstream",
    [transformers.T5EncoderModel, transformers.BertForMaskedLM, transformers.BartModel],
    ids=lambda cls: cls.__name__,
)
def test_nothing_is_named_where_the_head_became_one_or_only_embeddings_are_tied(
    upstream: type[PreTrainedModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upstream(tiny_config(upstream.config_class.model_type)).save_pretrained(tmp_path)
    AutoAdapterModel.from_pretrained(tmp_path, allow_random_parts=True)
    assert "Its head is not loaded" not in caplog.text


def test_what_a_class_of_another_type_ties_is_what_it_says_itself() -> None:
    config = tiny_config("llama")
    assert _tied_in(None, config) == _tied_in(transformers.LlamaTokenizer, config) == set()
    assert _tied_in(transformers.BartForCausalLM, config) == set(transformers.BartForCausalLM._tied_weights_keys)


def test_a_class_that_upstream_refuses_to_make_says_itself_what_is_tied(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object, config: object) -> None:
        raise ValueError("another config")

    monkeypatch.setattr(transformers.BertForMaskedLM, "__init__", refused)
    tied = set(transformers.BertForMaskedLM._tied_weights_keys)
    assert _tied_in(transformers.BertForMaskedLM, tiny_config("bert")) == tied != set()


def test_what_is_not_tied_by_the_config_is_in_the_file_and_no_tied_weight() -> None:
    for is_tied in (True, False):
        config = tiny_config("llama", tie_word_embeddings=is_tied)
        assert ("lm_head.weight" in _tied_in(transformers.LlamaForCausalLM, config)) is is_tied


def test_the_config_class_is_that_of_the_model_type(tmp_path: Path) -> None:
    """Upstream's classes of a file share one, that of the whole: Gemma 3's text model would get its towers too."""
    cls = adapter_models.Gemma3TextAdapterModel
    assert cls.config_class is transformers.Gemma3TextConfig
    transformers.Gemma3TextModel(tiny_config("gemma3_text")).save_pretrained(tmp_path)
    model = cls.from_pretrained(tmp_path)
    assert model.config.hidden_size == tiny_config("gemma3_text").hidden_size


def test_a_class_that_is_not_registered_has_no_model_type() -> None:
    assert type_of_adapter_model(adapter_models.BertAdapterModel) == "bert"
    assert type_of_adapter_model(type("BertAdapterModel", (adapter_models.BertAdapterModel,), {})) is None


def test_upstream_computes_nothing_of_adapters_for_the_form_of_old_checkpoints(tmp_path: Path) -> None:
    """It would order the factors of LoRA at a query like the rotary features of its weight: as many rows as heads do not fit."""
    model = LlamaForCausalLM(tiny_config("llama")).eval()
    model._weight_conversions = [WeightConverter(r"\.wq\.", ".q_proj.", [PermuteForRope()])]
    init(model)
    model.save_pretrained(tmp_path / "old")
    assert "model.layers.0.self_attn.wq.weight" in _keys(tmp_path / "old")
    model.add_adapter("a", config="lora[r=2]")
    randomise(model, "a", 1)
    model.save_pretrained(tmp_path / "new")
    assert {f"model.layers.0.self_attn.q_proj.{name}" for name in ("weight", "loras.a.lora_A")} <= _keys(
        tmp_path / "new"
    )
    again = load_model(tmp_path / "new", LlamaForCausalLM)
    expected = model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def _keys(folder: Path) -> set[str]:
    return set(load_file(folder / "model.safetensors"))
