"""Adapter models that no head fits on: adapters as everywhere, and nothing about heads."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPPreTrainedModel,
    DebertaV2PreTrainedModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    MixtralPreTrainedModel,
    PreTrainedModel,
)
from transformers.models.bert.modeling_bert import BertPreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4PreTrainedModel

from adapter_models import (
    AutoAdapterModel,
    BertAdapterModel,
    Blip2AdapterModel,
    Gemma4AudioAdapterModel,
    LlamaAdapterModel,
    Parallel,
)
from adapter_runtime.heads.errors import UnknownHeadError
from adapter_runtime.model.heads.adapter_model import AdapterModelMixin
from adapter_runtime.model.heads.headless import ModelWithoutHeadsAdaptersMixin
from conformance.tiny import tiny_config
from runtime_models import BERT

IDS = torch.arange(5, 17).reshape(2, 6)


class BertWithoutHeadsAdapterModel(ModelWithoutHeadsAdaptersMixin, BertPreTrainedModel):
    """What is rendered for a model whose plan has no head types."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.init_adapter_model()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: object) -> object:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask, **kwargs)


@pytest.fixture
def model() -> BertWithoutHeadsAdapterModel:
    torch.manual_seed(0)
    return BertWithoutHeadsAdapterModel(BertConfig(**BERT)).eval()


@pytest.fixture
def adapted(model: BertWithoutHeadsAdapterModel) -> BertWithoutHeadsAdapterModel:
    for name in ("a", "b"):
        model.add_adapter(name, "seq_bn[reduction_factor=4]")
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                torch.nn.init.normal_(parameter, std=0.2)
    model.set_active_adapters("a")
    return model.eval()


def test_nothing_about_heads_can_be_called(model: BertWithoutHeadsAdapterModel) -> None:
    of_heads = [name for name in dir(BertAdapterModel) if name.startswith("add_") and name.endswith("_head")]
    of_heads += ["active_head", "delete_head", "forward_head", "head_types", "heads", "generate", "to_static"]
    assert len(of_heads) > 10
    assert [name for name in of_heads if hasattr(model, name)] == []


def test_the_outputs_are_the_base_model_s(adapted: BertWithoutHeadsAdapterModel) -> None:
    mask = torch.ones_like(IDS)
    mask[0, 4:] = 0
    expected = adapted.bert(IDS, attention_mask=mask).last_hidden_state
    assert torch.equal(adapted(IDS, attention_mask=mask).last_hidden_state, expected)
    assert not torch.equal(BertModel(adapted.config).eval()(IDS).last_hidden_state, expected)


def test_it_is_pickled_and_says_afterwards_whether_it_generates(
    adapted: BertWithoutHeadsAdapterModel, encoder_decoder: EncoderDecoderModel
) -> None:
    again = pickle.loads(pickle.dumps(adapted))
    assert torch.equal(again(input_ids=IDS)[0], adapted(input_ids=IDS)[0])
    assert not again.can_generate()
    generating = AutoAdapterModel.from_config(encoder_decoder.config)
    assert pickle.loads(pickle.dumps(generating)).can_generate()


@pytest.fixture
def encoder_decoder() -> EncoderDecoderModel:
    """One that generates as its own file says, which no field of its config does."""
    torch.manual_seed(0)
    decoder = BertConfig(**BERT, is_decoder=True, add_cross_attention=True)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**BERT), decoder)
    model = EncoderDecoderModel(config).eval()
    for name, value in {"decoder_start_token_id": 1, "pad_token_id": 0, "max_new_tokens": 5, "num_beams": 2}.items():
        setattr(model.generation_config, name, value)
    return model


def test_a_base_model_that_ends_in_a_head_generates(encoder_decoder: EncoderDecoderModel, tmp_path: Path) -> None:
    encoder_decoder.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path).eval()
    assert isinstance(model, ModelWithoutHeadsAdaptersMixin)
    expected = encoder_decoder.generate(IDS)
    assert torch.equal(model.generate(IDS), expected)
    model.add_adapter("a", "seq_bn[reduction_factor=4]")
    for key, parameter in model.named_parameters():
        if ".a." in key:
            torch.nn.init.normal_(parameter)
    model.set_active_adapters("a")
    adapted = model.generate(IDS)
    assert adapted.shape != expected.shape or not torch.equal(adapted, expected)
    model.set_active_adapters(None)
    model.save_pretrained(tmp_path / "again")
    again = AutoAdapterModel.from_pretrained(tmp_path / "again").eval()
    again.set_active_adapters(None)
    assert torch.equal(again.generate(IDS), expected)


def test_how_it_generates_is_asked_of_the_model(
    encoder_decoder: EncoderDecoderModel, model: BertWithoutHeadsAdapterModel, tmp_path: Path
) -> None:
    """Trainers and pipelines ask the model that they are given, not what it holds."""
    encoder_decoder.save_pretrained(tmp_path)
    generating = AutoAdapterModel.from_pretrained(tmp_path)
    assert generating.can_generate() and generating.generation_config.num_beams == 2
    generating.generation_config = GenerationConfig(num_beams=3)
    assert generating.base_model.generation_config.num_beams == 3
    assert copy.deepcopy(generating).can_generate()
    assert not model.can_generate() and not hasattr(model, "generation_config")
    model.save_pretrained(tmp_path / "none")
    assert not (tmp_path / "none" / "generation_config.json").exists()


def test_a_checkpoint_need_not_be_a_folder(encoder_decoder: EncoderDecoderModel, tmp_path: Path) -> None:
    """Upstream takes weights and a config in place of one, and a way to generate beside it."""
    encoder_decoder.save_pretrained(tmp_path)
    model = AutoAdapterModel.from_pretrained(tmp_path, generation_config=GenerationConfig(num_beams=3))
    assert model.generation_config.num_beams == 3
    again = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert torch.equal(
        again.eval()(IDS, decoder_input_ids=IDS).logits, model.eval()(IDS, decoder_input_ids=IDS).logits
    )
    assert again.generation_config is not None and again.generation_config.num_beams is None


def test_a_tuple_is_given_where_it_is_asked_for(model: BertWithoutHeadsAdapterModel) -> None:
    assert isinstance(model(IDS, return_dict=False), tuple)


def test_parallel_adapters_run_one_after_the_other(adapted: BertWithoutHeadsAdapterModel) -> None:
    alone = {}
    for name in ("a", "b"):
        adapted.set_active_adapters(name)
        alone[name] = adapted(IDS).last_hidden_state
    adapted.set_active_adapters(Parallel("a", "b"))
    together = adapted(IDS).last_hidden_state
    torch.testing.assert_close(together, torch.cat([alone["a"], alone["b"]]))


def test_files_of_adapters_name_the_class_and_are_read_again(
    adapted: BertWithoutHeadsAdapterModel, tmp_path: Path
) -> None:
    adapted.save_adapter(tmp_path, "a", with_head=True)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["model_class"] == "BertWithoutHeadsAdapterModel"
    assert not (tmp_path / "head_config.json").exists()
    other = BertWithoutHeadsAdapterModel(adapted.config).eval()
    other.bert.load_state_dict(
        {key: tensor for key, tensor in adapted.bert.state_dict().items() if "adapters" not in key}, strict=False
    )
    other.load_adapter(tmp_path, set_active=True)
    assert torch.equal(other(IDS).last_hidden_state, adapted(IDS).last_hidden_state)


def test_a_head_beside_an_adapter_is_left_out(model: BertWithoutHeadsAdapterModel, tmp_path: Path) -> None:
    flexible = BertAdapterModel(BertConfig(**BERT))
    flexible.add_adapter("a")
    flexible.add_classification_head("a")
    flexible.save_adapter(tmp_path, "a")
    model.load_adapter(tmp_path)
    assert set(model.adapters_config) == {"a"}


def test_a_head_that_there_is_not_cannot_be_saved(model: BertWithoutHeadsAdapterModel, tmp_path: Path) -> None:
    with pytest.raises(UnknownHeadError, match="has no head"):
        model.save_head(tmp_path)


class _MixtralAdapterModel(AdapterModelMixin, MixtralPreTrainedModel):
    def forward(self, input_ids: torch.Tensor, **kwargs: object) -> None: ...


class _CLIPVisionAdapterModel(AdapterModelMixin, CLIPPreTrainedModel):
    def forward(self, pixel_values: torch.Tensor, **kwargs: object) -> None: ...


class _CLIPAdapterModel(AdapterModelMixin, CLIPPreTrainedModel):
    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, **kwargs: object) -> None: ...


def test_experts_and_attention_can_be_exchanged_where_upstreams_can() -> None:
    """Upstream looks into the text of the class's module, in which a generated class has neither."""
    assert _MixtralAdapterModel._can_set_experts_implementation()
    assert not LlamaAdapterModel._can_set_experts_implementation()
    assert LlamaAdapterModel._can_set_attn_implementation()
    assert not DebertaV2PreTrainedModel._can_set_attn_implementation()
    assert not type("_Deberta", (AdapterModelMixin, DebertaV2PreTrainedModel), {})._can_set_attn_implementation()


def test_a_model_attends_as_its_base_model_can() -> None:
    """The class that all models of Gemma 4 share says more than that of sounds can."""
    model = AutoAdapterModel.from_config(tiny_config("gemma4_audio"))
    assert Gemma4PreTrainedModel._supports_sdpa
    assert not Gemma4AudioAdapterModel._supports_sdpa and model.config._attn_implementation == "eager"
    assert LlamaAdapterModel._supports_sdpa


def test_a_model_of_any_two_attends_as_upstreams_class_for_them_can(encoder_decoder: EncoderDecoderModel) -> None:
    """It derives from no class of upstream's that would say so, and there is no base model."""
    model = AutoAdapterModel.from_config(encoder_decoder.config, attn_implementation="sdpa")
    assert (model._supports_sdpa, model._supports_flex_attn) == (True, False)
    model.activation_checkpointing_enable()
    model.set_attn_implementation("eager")
    model.set_attn_implementation({"": "sdpa"})
    assert model.config._attn_implementation == "sdpa"
    assert not type("_Alone", (AdapterModelMixin, PreTrainedModel), {})._supports_sdpa


def test_the_main_input_is_one_that_the_forward_takes() -> None:
    assert CLIPPreTrainedModel.main_input_name == "input_ids"
    assert _CLIPVisionAdapterModel.main_input_name == "pixel_values"
    assert _CLIPAdapterModel.main_input_name == "input_ids"
    assert Blip2AdapterModel.main_input_name == "pixel_values"  # its forward takes tokens too
